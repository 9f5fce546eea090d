// The sign-in dialog.

import { request, useToken } from "./api.js";
import { h } from "./dom.js";
import { openDialog } from "./notices.js";
import { button, describeError, prose } from "./widgets.js";

/** Asks for a token; calls `signedIn(who)` once the API has accepted it. */
export async function openSignIn(signedIn) {
  const message = h("p", { class: "message", role: "alert", id: "sign-in-message" });
  const show = (error) => message.replaceChildren(...prose(describeError(error)));
  const token = h("input", {
    type: "password",
    id: "token",
    autocomplete: "off",
    spellcheck: "false",
    required: true,
    autofocus: true,
    "aria-describedby": "sign-in-message",
  });
  const keep = h("input", { type: "checkbox", id: "keep" });
  const send = h("button", { type: "submit", class: "main", id: "sign-in-send" }, "Sign in");
  const submit = async (event) => {
    event.preventDefault();
    const value = token.value.trim();
    if (!value) return;
    send.disabled = true;
    message.textContent = "";
    try {
      const who = await request("whoami", { as: value });
      useToken(value, keep.checked);
      dialog.close();
      signedIn(who);
    } catch (error) {
      show(error);
      token.select();
    }
    send.disabled = false;
  };
  const dialog = openDialog(
    { id: "sign-in-dialog", "aria-labelledby": "sign-in-title", onclose: () => dialog.remove() },
    h("h2", { id: "sign-in-title" }, "Sign in"),
    h(
      "form",
      { method: "dialog", onsubmit: submit },
      h("label", { class: "field" }, h("span", {}, "Token"), token),
      h("label", { class: "check" }, keep, h("span", {}, "Keep for this tab (until it is closed)")),
      message,
      h(
        "p",
        { class: "muted" },
        prose("Create a token on the server with `pgsteward token new NAME --role viewer`."),
      ),
      h(
        "div",
        { class: "buttons" },
        button("Cancel", () => dialog.close()),
        send,
      ),
    ),
  );
  // A request without a token shows whether the API needs one, and whether any token is configured.
  try {
    const who = await request("whoami", { as: null });
    dialog.close();
    signedIn(who);
  } catch (error) {
    if (error.code === "no_credentials_configured") show(error);
  }
}
