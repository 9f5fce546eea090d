// The audit trail: who did what to which when, and what changed.

import { exportCsv, get } from "./api.js";
import { h, slot } from "./dom.js";
import { bytes, clock, instant, plural, value, when, words } from "./format.js";
import { button, field, flip, loading, muted, opener, panel, refusal, small, table } from "./parts.js";

const PAGE = 50;
const SPANS = [["", "any time"], ["1", "last hour"], ["24", "last 24 hours"], ["168", "last 7 days"], ["own", "from … to …"]];
const SHORT = 120;

export function audit(ctx) {
  const state = { query: {}, pages: [null], data: null, error: null, busy: false, opened: new Set(), at: null, saving: null };
  let flight = null;

  async function load() {
    flight?.abort();
    const mine = flight = new AbortController();
    Object.assign(state, { busy: true, error: null });
    ctx.rerender();
    try {
      state.data = await get("health/audit", ctx.query({ ...state.query, limit: PAGE, cursor: state.pages.at(-1) }), mine.signal);
      state.at = Date.now();
    } catch (error) {
      if (mine.signal.aborted) return;
      state.error = error;
    }
    state.busy = false;
    ctx.rerender();
  }
  const search = () => {
    state.query = read(form);
    turn([null]);
  };
  const turn = (pages) => {
    state.pages = pages;
    state.opened.clear();
    load();
  };
  const form = makeForm(search);
  // Not asked for again and again: a page that changes beneath a reader is no help. Only after a failure.
  const again = { start: () => load(), stop: () => flight?.abort(), wake() {}, now: () => state.error && load() };
  return {
    polls: () => (ctx.who ? [again] : []),
    stop() {
      flight?.abort();
      state.saving?.abort();
    },
    render: () => [panel(ctx, {
      id: "audit", title: "Audit trail", needs: ctx.who ? null : "viewer", about: state.data?.scope === "own" ? "Your own events: all of them are shown to an admin." : null,
      actions: ctx.who && button(state.saving ? "Stop the export" : "Export as CSV", () => save(ctx, state), { id: "csv" }),
      body: () => [
        slot("audit-form", form),
        refusal(ctx, state.error),
        state.busy && !state.data && loading("Searching …"),
        state.data && h("div", { key: "events", class: state.error ? "aged" : null, "aria-busy": String(state.busy) }, events(ctx, state), pager(state, turn)),
      ],
    })],
  };
}

function makeForm(search) {
  const span = field("Time", { name: "span", onchange: () => form.classList.toggle("own", form.elements.span.value === "own") }, SPANS);
  const form = h("form", { class: "search", role: "search", id: "audit-form", onsubmit: (event) => {
    event.preventDefault();
    search();
  } },
    span, field("From", { type: "datetime-local", name: "since", step: "1" }), field("To", { type: "datetime-local", name: "until", step: "1" }),
    field("Action (job.* for all of a kind)", { name: "action" }), field("Resource type", { name: "resource_type" }), field("Resource", { name: "resource_id" }),
    field("User", { name: "user_id" }), field("Actor", { name: "actor" }), field("IP address or network", { name: "ip" }), field("Request", { name: "request_id" }), field("Source", { name: "source" }),
    field("Order", { name: "order" }, [["newest", "newest first"], ["oldest", "oldest first"]]),
    h("div", { class: "buttons" }, h("button", { type: "submit", class: "main", id: "audit-search" }, "Search"),
      button("Clear", () => {
        form.reset();
        form.classList.remove("own");
        search();
      })));
  return form;
}

function read(form) {
  const { span, since, until, ...rest } = Object.fromEntries([...new FormData(form)].map(([name, text]) => [name, text.trim()]));
  const asInstant = (text) => (text ? new Date(clock.utc ? `${text}Z` : text).toISOString() : null);
  const ended = { own: () => ({ since: asInstant(since), until: asInstant(until) }), "": () => ({}) }[span];
  return { ...rest, ...(ended ? ended() : { since: new Date(Date.now() + clock.skew - Number(span) * 3600e3).toISOString() }) };
}

function events(ctx, state) {
  return table({
    caption: "Events", name: "event-list", rows: state.data.items, key: (one) => one.id, empty: "No event is like that.",
    columns: [
      ["When", "lead", (one) => opener(when(one.created_at), state.opened.has(one.id), () => flip(ctx, state.opened, one.id), `${instant(one.created_at)}, ${one.action}: details`)],
      ["Action", "", (one) => h("code", {}, one.action)],
      ["Who", "", (one) => [one.user_id ?? one.actor ?? one.session_user_name ?? "–", one.user_id && one.actor && small(one.actor)]],
      ["What", "", (one) => [one.resource_id ?? "–", one.resource_type && small(one.resource_type)]],
      ["Changed", "wide", (one) => changed(one)],
      ["From", "", (one) => [one.ip_address ?? "–", one.source && small(one.source)]],
    ],
    more: (one) => state.opened.has(one.id) && whole(one),
  });
}

const fields = (one) => [...new Set([...Object.keys(one.old_values ?? {}), ...Object.keys(one.new_values ?? {})])];
const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
const differs = (one) => fields(one).filter((name) => !same(one.old_values?.[name], one.new_values?.[name]));

function changed(one) {
  const names = differs(one);
  if (names.length === 0) return "";
  const verb = one.old_values == null ? "new: " : one.new_values == null ? "gone: " : "";
  return `${verb}${names.slice(0, 4).join(", ")}${names.length > 4 ? ` and ${names.length - 4} more` : ""}`;
}

function whole(one) {
  const facts = ["id", "user_id", "actor", "session_user_name", "ip_address", "user_agent", "request_id", "source", "xid"].filter((name) => one[name] != null);
  return h("div", { class: "below" }, diff(one),
    one.details != null && [h("h3", {}, "Details"), value(one.details)],
    h("dl", { class: "facts" }, facts.map((name) => h("div", {}, h("dt", {}, words(name)), h("dd", {}, String(one[name]))))));
}

function diff(one) {
  const names = fields(one);
  if (names.length === 0) return null;
  const moved = new Set(differs(one));
  const rows = [...names.filter((name) => moved.has(name)), ...names.filter((name) => !moved.has(name))];
  const side = (values, name, tag, sign) => {
    const absent = values == null || !(name in values);
    if (absent) return h("td", { class: "muted" }, "–");
    const shown = values[name] === null ? "null" : typeof values[name] === "object" ? value(values[name]) : String(values[name]);
    return h("td", {}, moved.has(name) ? h(tag, { class: String(shown).length > SHORT ? "long" : null }, h("span", { class: "sign", "aria-hidden": "true" }, sign), shown) : shown);
  };
  return h("div", { class: "scroll" }, h("table", { class: "small diff" }, h("caption", { class: "unseen" }, "Old and new values"),
    h("thead", {}, h("tr", {}, ["field", "before", "after"].map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, rows.map((name) => h("tr", { class: moved.has(name) ? null : "muted" }, h("th", { scope: "row" }, name), side(one.old_values, name, "del", "−"), side(one.new_values, name, "ins", "+"))))));
}

function pager(state, turn) {
  const { pages, data } = state;
  const first = pages.length > 1 ? null : "this is the first page";
  return h("div", { class: "row pager", key: "pager" }, button("First", () => turn([null]), { lacks: first }), button("Back", () => turn(pages.slice(0, -1)), { lacks: first }),
    button("Next", () => turn([...pages, data.next]), { lacks: data.next ? null : "this is the last page", id: "audit-next" }),
    muted(`Page ${pages.length}, ${plural(data.items.length, "event")}, read at ${instant(state.at, "time")}`));
}

async function save(ctx, state) {
  if (state.saving) {
    state.saving.abort();
    return;
  }
  const mine = state.saving = new AbortController();
  ctx.rerender();
  try {
    const file = await exportCsv(ctx.query(state.query), mine.signal);
    const link = h("a", { href: URL.createObjectURL(file), download: `audit-${ctx.target}-${new Date().toISOString().slice(0, 19).replaceAll(":", "")}.csv` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    ctx.notify(`Exported ${bytes(file.size)}.`, "good");
  } catch (error) {
    if (mine.signal.aborted) ctx.notify("The export was stopped.");
    else ctx.failed("The export", error);
  }
  state.saving = null;
  ctx.rerender();
}
