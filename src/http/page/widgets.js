// The building blocks of every view: panels, tables, forms, status marks and error notes.

import { h, s } from "./dom.js";
import { brief, words } from "./format.js";

const CIRCLE = "M8 1.5a6.5 6.5 0 1 0 0 13a6.5 6.5 0 0 0 0-13z";
const MARKS = {
  healthy: [CIRCLE, "M5 8.2l2.1 2.2l4-4.6"],
  degraded: ["M8 1.5L15 14.2H1z", "M8 6v4M8 11.7v.6"],
  unhealthy: [
    "M5.2 1.5h5.6l3.7 3.7v5.6l-3.7 3.7H5.2L1.5 10.8V5.2z",
    "M5.6 5.6l4.8 4.8M10.4 5.6l-4.8 4.8",
  ],
  unknown: [CIRCLE, "M6 6.2a2 2 0 1 1 2.8 2c-.6.3-.8.7-.8 1.2M8 11.3v.6"],
  running: [CIRCLE, "M6.5 5.2v5.6l4.5-2.8z"],
  paused: [CIRCLE, "M6.3 5.5v5M9.7 5.5v5"],
};
// The mark for each state of a run or a migration.
const MARK_OF = {
  succeeded: "healthy",
  applied: "healthy",
  reformatted: "healthy",
  ok: "healthy",
  failed: "unhealthy",
  timed_out: "unhealthy",
  lost: "unhealthy",
  edited: "unhealthy",
  cancelled: "degraded",
  out_of_order: "degraded",
  no_file: "degraded",
  skipped: "unknown",
  queued: "paused",
  pending: "paused",
  cancelling: "running",
};

export const small = (...content) => h("small", {}, content);
export const muted = (...content) => h("span", { class: "muted" }, content);
export const visuallyHidden = (text) => h("span", { class: "visually-hidden" }, text);

/** A list of names and values: `[name, value]` each. */
export const definitions = (facts, kind = null) =>
  h(
    "dl",
    { class: kind },
    facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
  );

/** A status as shape, colour and word. */
export function status(name, text = words(name)) {
  const mark = name in MARKS ? name : (MARK_OF[name] ?? "unknown");
  const [outline, inside] = MARKS[mark];
  return h(
    "span",
    { class: `mark ${mark}` },
    s(
      "svg",
      { viewBox: "0 0 16 16", "aria-hidden": "true" },
      s("path", { class: "outline", d: outline }),
      s("path", { class: "inside", d: inside }),
    ),
    h("span", {}, text),
  );
}

/** An error as a sentence with the remedy. `polling`: the request is repeated without a person. */
export function describeError(error, role, { polling = false } = {}) {
  const next = (otherwise) => (polling ? "The page retries automatically." : otherwise);
  const describe = {
    database_unavailable: () =>
      `The database is unavailable${errorKind(error)}. ${next("Try again when it is back.")}`,
    busy: () => `Too many requests of this kind are in progress. ${next("Try again in a moment.")}`,
    forbidden: () => `Your role${role ? ` (${role})` : ""} may not do this. ${error.detail ?? ""}`,
    unauthenticated: () => "Sign in to do this.",
    invalid_credentials: () =>
      "The token is not valid: it is mistyped, expired, or no longer in the configuration.",
    too_many_failures: () => {
      const wait = error.retryAfter ? `in ${error.retryAfter} s` : "later";
      return `Too many invalid tokens from this address. Try again ${wait}.`;
    },
    no_credentials_configured: () =>
      "No token is configured. Create one with `pgsteward token new NAME --role viewer`.",
    no_leader: () => "No instance is the leader at the moment, so no job runs.",
    unreachable: () => `${error.detail}. ${next("Try again later.")}`,
  }[error.code];
  if (describe) return describe();
  const request = error.requestId ? ` (request ${error.requestId})` : "";
  return `${error.detail ?? error.message}${request}`;
}

// A problem of an unavailable database has the kind of the error as `reason`.
const errorKind = ({ body }) =>
  body?.reason && body.reason !== "ok" ? ` (${words(body.reason)})` : "";

/** An error as a note; read aloud if a person waits for the response. */
export const errorNote = (ctx, error, options = {}) =>
  error &&
  h(
    "p",
    { class: "note bad", key: "error", role: options.polling ? null : "alert" },
    prose(describeError(error, ctx.role(), options)),
  );

/** Text in which backticks mark code. */
export const prose = (text) =>
  String(text ?? "")
    .split("`")
    .map((part, i) => (i % 2 ? h("code", {}, part) : part));

/** A button. `denied` is the reason why it is not available; null if it is. */
export function button(text, onclick, { kind = "", denied = null, ...props } = {}) {
  // Not `disabled`: the keyboard must reach the button, and its title must give the reason.
  const ignore = (event) => event.preventDefault();
  return h(
    "button",
    {
      type: "button",
      class: kind,
      onclick: denied ? ignore : onclick,
      title: denied,
      "aria-disabled": denied ? "true" : null,
      ...props,
      "aria-label":
        denied && props["aria-label"] ? `${props["aria-label"]} (${denied})` : props["aria-label"],
    },
    text,
  );
}

/** A statement with a button that copies it. */
export function sql(text, ctx) {
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      ctx.notify("Copied.");
    } catch {
      ctx.notify("The browser does not allow copying here; select the text instead.", "bad");
    }
  };
  return h(
    "span",
    { class: "sql" },
    h("code", {}, text),
    button("Copy", copy, { kind: "quiet", "aria-label": `Copy: ${text.slice(0, 60)}` }),
  );
}

export const loading = (text = "Loading …") =>
  h("p", { class: "muted loading", key: "loading" }, text);

/** Adds a key to a set, or removes it, and redraws. */
export function toggleIn(ctx, set, key) {
  if (!set.delete(key)) set.add(key);
  ctx.rerender();
}

/**
 * A section with a title. It shows that its poll loads, why the poll fails, and since when its data
 * is out of date.
 */
export function panel(ctx, { id, title, about, actions, poll, needs = "viewer", body }) {
  const allowed = !needs || ctx.can(needs);
  const head = h(
    "header",
    {},
    h("h2", { id: `${id}-title` }, title),
    allowed && about && h("p", { class: "muted" }, about),
    allowed && h("div", { class: "actions" }, actions),
  );
  const section = (...content) =>
    h("section", { key: id, id, class: "panel", "aria-labelledby": `${id}-title` }, head, content);
  if (!allowed) return section(locked(ctx, needs));
  if (!poll) return section(body());
  const options = { polling: true };
  if (poll.data === null) return section(errorNote(ctx, poll.error, options) || loading());
  const outdated =
    poll.error &&
    h(
      "p",
      { class: "note", key: "note" },
      h("strong", {}, "As of ", brief(poll.at), ". "),
      prose(describeError(poll.error, ctx.role(), options)),
    );
  return section(
    outdated,
    h("div", { key: "body", class: poll.error ? "aged" : null }, body(poll.data)),
  );
}

function locked(ctx, needs) {
  if (ctx.who)
    return h(
      "p",
      { class: "locked", key: "note" },
      `This needs the role ${needs}; yours is ${ctx.role()}.`,
    );
  return h(
    "p",
    { class: "locked", key: "note" },
    `Sign in${needs === "user" ? "" : ` as ${needs} or higher`} to see this. `,
    button("Sign in", ctx.signIn, { kind: "link" }),
  );
}

// Too narrow for a table of even a few columns.
const narrow = matchMedia("(max-width: 600px)");

/**
 * A table, shown as cards on a narrow screen. Columns: [head, class, cell(row)]. `more(row)`
 * returns what to show below a row, or null.
 */
export function table({ caption, columns, rows, key, more, empty = "None.", name }) {
  if (rows.length === 0) return h("p", { class: "muted empty", key: `empty-${caption}` }, empty);
  const heads = columns.map(([head, kind]) =>
    h("th", { scope: "col", class: kind }, head || visuallyHidden("Actions")),
  );
  const body = rows.flatMap((row, i) => {
    const id = key ? key(row) : i;
    const cells = columns.map(([head, kind, cell], at) => {
      const shown = cell(row);
      const [only, ...others] = [shown].flat(Infinity).filter(Boolean);
      // A card omits a cell without a value.
      const none = others.length === 0 && (only?.textContent ?? only) === "–" && "none";
      return h(
        at ? "td" : "th",
        {
          class: [kind, none].filter(Boolean).join(" ") || null,
          "data-label": head,
          scope: at ? null : "row",
        },
        shown,
      );
    });
    const below = more?.(row);
    return [
      h("tr", { key: `row-${id}`, "data-key": id, class: below ? "opened" : null }, cells),
      below &&
        h("tr", { key: `more-${id}`, class: "more" }, h("td", { colspan: columns.length }, below)),
    ];
  });
  return h(
    "div",
    { class: "scroll", key: `table-${caption}` },
    h(
      "table",
      { class: columns.length > 4 || narrow.matches ? "cards" : null, id: name },
      h("caption", { class: "visually-hidden" }, caption),
      h("thead", {}, h("tr", {}, heads)),
      h("tbody", {}, body),
    ),
  );
}

/** A button that opens and closes what is below a row. */
export function opener(text, open, toggle, label) {
  return button(
    [h("span", { class: "chevron", "aria-hidden": "true" }, open ? "▾" : "▸"), text],
    toggle,
    { kind: "quiet", "aria-expanded": String(open), "aria-label": label },
  );
}

/** A group of buttons, of which one is pressed. */
export function choices(label, options, chosen, choose) {
  return h(
    "div",
    { class: "choices", role: "group", "aria-label": label },
    options.map(([key, text]) =>
      h(
        "button",
        {
          type: "button",
          "aria-pressed": String(key === chosen),
          onclick: () => choose(key),
          "data-choice": key,
        },
        text,
      ),
    ),
  );
}

/** A key figure with its name. */
export const figure = (name, ...shown) =>
  h("div", { class: "figure" }, h("dt", {}, name), h("dd", {}, shown));

/** A form field with its label. */
export function field(label, props, options) {
  const input = options
    ? h(
        "select",
        props,
        options.map(([value, text]) => h("option", { value }, text)),
      )
    : h("input", { type: "text", autocomplete: "off", spellcheck: "false", ...props });
  return h(
    "label",
    { class: props.type === "checkbox" ? "check" : "field" },
    h("span", {}, label),
    input,
  );
}

/** The result of an action, read aloud. A live region must exist before its text changes. */
export const resultLine = (id, ...content) =>
  h("p", { class: "result", role: "status", id, key: id, tabindex: "-1" }, content);

/** The error of a form's request. An error about one field is tied to it and named by its label. */
export function formError(ctx, form, error, options) {
  const id = `${form.id}-error`;
  const name = error?.code === "invalid_request" && /^(\w+): /.exec(error.detail)?.[1];
  const field = name ? form.elements.namedItem(name) : null;
  for (const input of form.elements) {
    for (const [attribute, value] of [
      ["aria-invalid", "true"],
      ["aria-describedby", id],
    ]) {
      if (input === field) input.setAttribute(attribute, value);
      else input.removeAttribute(attribute);
    }
  }
  if (!field) return errorNote(ctx, error, options);
  const label = field.closest("label").firstChild.textContent;
  return h(
    "p",
    { class: "note bad", key: "error", role: "alert", id },
    `${label}: ${error.detail.slice(name.length + 2)}.`,
  );
}
