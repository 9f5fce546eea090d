// What every view is made of: panels, tables, status marks, and how a refusal is told.

import { h, s } from "./dom.js";
import { brief, words } from "./format.js";

const ROUND = "M8 1.5a6.5 6.5 0 1 0 0 13a6.5 6.5 0 0 0 0-13z";
const MARKS = {
  healthy: [ROUND, "M5 8.2l2.1 2.2l4-4.6"],
  degraded: ["M8 1.5L15 14.2H1z", "M8 6v4M8 11.7v.6"],
  unhealthy: [
    "M5.2 1.5h5.6l3.7 3.7v5.6l-3.7 3.7H5.2L1.5 10.8V5.2z",
    "M5.6 5.6l4.8 4.8M10.4 5.6l-4.8 4.8",
  ],
  unknown: [ROUND, "M6 6.2a2 2 0 1 1 2.8 2c-.6.3-.8.7-.8 1.2M8 11.3v.6"],
  running: [ROUND, "M6.5 5.2v5.6l4.5-2.8z"],
  paused: [ROUND, "M6.3 5.5v5M9.7 5.5v5"],
};
// How a run or a migration went, in the four marks of health.
const LIKE = {
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

/** A status by shape, colour and word. */
export function status(name, text = words(name)) {
  const like = name in MARKS ? name : (LIKE[name] ?? "unknown");
  const [outline, inside] = MARKS[like];
  return h(
    "span",
    { class: `mark ${like}` },
    s(
      "svg",
      { viewBox: "0 0 16 16", "aria-hidden": "true" },
      s("path", { class: "outline", d: outline }),
      s("path", { class: "inside", d: inside }),
    ),
    h("span", {}, text),
  );
}

/** A refusal in words that say what to do. `again`: it is a poll's, which goes on by itself. */
export function explain(error, role, { again = false } = {}) {
  const told = {
    database_unavailable: () =>
      `The database is away${kindOf(error)}: ${again ? "this needs it, and is asked for again by itself." : "try again when it is back."}`,
    busy: () =>
      `pgsteward is busy with as much of this as it does at a time; ${again ? "it is asked again by itself." : "try again in a moment."}`,
    forbidden: () => `Your role${role ? ` (${role})` : ""} may not do this. ${error.detail ?? ""}`,
    unauthenticated: () => "This needs a sign-in.",
    invalid_credentials: () =>
      "The token is not valid here: mistyped, expired, or removed from the configuration.",
    too_many_failures: () =>
      `Too many refused tokens from this address.${error.retryAfter ? ` Try again in ${error.retryAfter} s.` : " Try again later."}`,
    no_credentials_configured: () =>
      "No token is configured on this pgsteward: make one with `pgsteward token new NAME --role viewer`.",
    no_observer: () => "No instance runs jobs at the moment, since none observes the database.",
    unreachable: () =>
      `${error.detail}. ${again ? "It is tried again by itself." : "Try again when it does."}`,
  }[error.code];
  if (told) return told();
  return `${error.detail ?? error.message}${error.requestId ? ` (request ${error.requestId})` : ""}`;
}

// The detail of an outage holds the kind of error; it is shown as far as it is one.
function kindOf(error) {
  const kind =
    /\b(unreachable|refused|auth|tls|hba|unknown_database|too_many_connections|starting_up|timeout|connection_lost|pool_timeout)\b/.exec(
      error.detail ?? "",
    );
  return kind ? ` (${words(kind[1])})` : "";
}

/** The same as a note of its own; said aloud where somebody waits for the answer. */
export const refusal = (ctx, error, more = {}) =>
  error &&
  h(
    "p",
    { class: "note bad", key: "error", role: more.again ? null : "alert" },
    prose(explain(error, ctx.role(), more)),
  );

/** A message in which `code` is set as such. */
export const prose = (text) =>
  String(text ?? "")
    .split("`")
    .map((part, i) => (i % 2 ? h("code", {}, part) : part));

export function button(text, onclick, { kind = "", lacks = null, ...props } = {}) {
  // Not `disabled`: whoever may not do it should still reach it and hear why.
  const refuse = (event) => event.preventDefault();
  return h(
    "button",
    {
      type: "button",
      class: kind,
      onclick: lacks ? refuse : onclick,
      title: lacks,
      "aria-disabled": lacks ? "true" : null,
      ...props,
      "aria-label":
        lacks && props["aria-label"] ? `${props["aria-label"]} (${lacks})` : props["aria-label"],
    },
    text,
  );
}

/** For those who hear the page. */
export const aside = (text) => h("span", { class: "unseen" }, text);

/** A statement to take along. */
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

/** Puts something into a set, or takes it out, and shows that. */
export function flip(ctx, set, key) {
  if (!set.delete(key)) set.add(key);
  ctx.rerender();
}

/**
 * A section fed by a poll. Says for itself that it loads, what keeps it from loading, and that what
 * it shows is of earlier.
 */
export function panel(ctx, { id, title, about, actions, poll, needs = "viewer", body }) {
  const may = !needs || ctx.can(needs);
  const head = h(
    "header",
    {},
    h("h2", { id: `${id}-title` }, title),
    may && about && h("p", { class: "muted" }, about),
    may && h("div", { class: "actions" }, actions),
  );
  const section = (...content) =>
    h("section", { key: id, id, class: "panel", "aria-labelledby": `${id}-title` }, head, content);
  if (!may) return section(locked(ctx, needs));
  if (!poll) return section(body());
  const again = { again: true };
  if (poll.data === null) return section(refusal(ctx, poll.error, again) || loading());
  const old =
    poll.error &&
    h(
      "p",
      { class: "note", key: "note" },
      h("strong", {}, "As of ", brief(poll.at), ". "),
      prose(explain(poll.error, ctx.role(), again)),
    );
  return section(
    old,
    h("div", { key: "body", class: poll.error ? "aged" : null }, body(poll.data)),
  );
}

function locked(ctx, needs) {
  if (ctx.who)
    return h(
      "p",
      { class: "locked", key: "note" },
      `Your role is ${ctx.role()}, and this needs ${needs}.`,
    );
  return h(
    "p",
    { class: "locked", key: "note" },
    `Sign in${needs === "user" ? "" : ` as ${needs} or higher`} to see this. `,
    button("Sign in", ctx.signIn, { kind: "link" }),
  );
}

// Where not even a few columns stand side by side.
const narrow = matchMedia("(max-width: 600px)");

/**
 * A table that becomes cards where it is narrow. Columns: [head, class, cell(row)]. `more(row)` gives
 * what belongs below a row, or null.
 */
export function table({ caption, columns, rows, key, more, empty = "None.", name }) {
  if (rows.length === 0) return h("p", { class: "muted empty", key: `empty-${caption}` }, empty);
  const heads = columns.map(([head, kind]) =>
    h("th", { scope: "col", class: kind }, head || aside("Actions")),
  );
  const body = rows.flatMap((row, i) => {
    const id = key ? key(row) : i;
    const cells = columns.map(([head, kind, cell], at) => {
      const shown = cell(row);
      const [only, ...others] = [shown].flat(Infinity).filter(Boolean);
      // A card leaves out what has nothing to say.
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
      h("caption", { class: "unseen" }, caption),
      h("thead", {}, h("tr", {}, heads)),
      h("tbody", {}, body),
    ),
  );
}

/** Opens and closes what belongs to a row. */
export function opener(text, open, toggle, label) {
  return button(
    [h("span", { class: "chevron", "aria-hidden": "true" }, open ? "▾" : "▸"), text],
    toggle,
    { kind: "quiet", "aria-expanded": String(open), "aria-label": label },
  );
}

/** Choices of which one holds. */
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

/** A number that matters, with its name. */
export const figure = (name, ...shown) =>
  h("div", { class: "figure" }, h("dt", {}, name), h("dd", {}, shown));

/** A labelled field of a form. */
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

/** What came of an act, said aloud. It has to stand there before it has something to say. */
export const said = (id, ...content) =>
  h("p", { class: "told", role: "status", id, key: id, tabindex: "-1" }, content);

/** A refusal of what a form asked for. What is about one field is tied to that, and named as that is. */
export function blame(ctx, form, error, more) {
  const id = `${form.id}-error`;
  const name = error?.code === "invalid_request" && /^(\w+): /.exec(error.detail)?.[1];
  const at = name ? form.elements.namedItem(name) : null;
  for (const input of form.elements) {
    for (const [attribute, value] of [
      ["aria-invalid", "true"],
      ["aria-describedby", id],
    ]) {
      if (input === at) input.setAttribute(attribute, value);
      else input.removeAttribute(attribute);
    }
  }
  if (!at) return refusal(ctx, error, more);
  const label = at.closest("label").firstChild.textContent;
  return h(
    "p",
    { class: "note bad", key: "error", role: "alert", id },
    `${label}: ${error.detail.slice(name.length + 2)}.`,
  );
}
