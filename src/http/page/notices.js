// Notices at the edge of the page, and the dialog that asks for confirmation.

import { h } from "./dom.js";
import { button, prose } from "./widgets.js";

const NOTICE_MS = 5000;
const MAX_NOTICES = 3;

/** Shows a notice for a few seconds; a `sticky` one until it is dismissed. Returns its element. */
export function notify(text, kind = "", { sticky = false, action = null } = {}) {
  const notice = h(
    "div",
    { class: `notice ${kind}` },
    h("span", {}, prose(text)),
    action,
    button("Dismiss", () => notice.remove(), {
      kind: "quiet",
      "aria-label": `Dismiss: ${text.slice(0, 60)}`,
    }),
  );
  const list = document.getElementById("notes");
  list.append(notice);
  while (list.children.length > MAX_NOTICES) list.firstChild.remove();
  if (sticky) return notice;
  let timer;
  const start = () => {
    timer = setTimeout(() => notice.remove(), kind === "bad" ? NOTICE_MS * 2 : NOTICE_MS);
  };
  // A notice stays while the pointer or the focus is on it.
  notice.onpointerenter = notice.onfocusin = () => clearTimeout(timer);
  notice.onpointerleave = notice.onfocusout = start;
  start();
  return notice;
}

/** Asks for confirmation. Resolves to the result of `read`, or to null if the person cancels. */
export function confirm({ title, content, confirmText, danger = false, read = () => true }) {
  return new Promise((resolve) => {
    let answer = null;
    const submit = (event) => {
      event.preventDefault();
      answer = read();
      dialog.close();
    };
    const close = () => {
      dialog.remove();
      resolve(answer);
    };
    const dialog = openDialog(
      { "aria-labelledby": "question", onclose: close },
      h("h2", { id: "question" }, title),
      h(
        "form",
        { method: "dialog", onsubmit: submit },
        content,
        h(
          "div",
          { class: "buttons" },
          button("Cancel", () => dialog.close(), { autofocus: danger }),
          h(
            "button",
            {
              type: "submit",
              class: danger ? "main danger" : "main",
              id: "confirm",
              autofocus: !danger,
            },
            confirmText,
          ),
        ),
      ),
    );
  });
}

/** Opens a modal dialog. */
export function openDialog(props, ...content) {
  const dialog = h("dialog", props, content);
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}
