/// <reference lib="dom" />
import { fieldWith } from "./check-parts.ts";
import { h } from "./dom.ts";
import { isToken } from "./session.ts";
import type { Context, View } from "./view.ts";

/** Asks for a viewer's token. @param refused whether one was given already and the service did not take it */
export function signInView({ session }: Context, refused: boolean, done: () => void): View {
  const token = h("input", {
    type: "password",
    autocomplete: "off",
    spellcheck: "false",
    class: "mono",
    name: "token",
  });
  const keep = h("input", { type: "checkbox", id: "keep" });
  const field = fieldWith("Viewer's token", token, "It is sent to this service only, in a header.");
  const form = h(
    "form",
    { class: "card sign-in", novalidate: true, "aria-label": "Sign in" },
    refused
      ? h(
          "div",
          { class: "notice notice-bad", role: "alert" },
          h("p", { class: "notice-title" }, "The token was refused"),
          h(
            "p",
            {},
            "It is not known here, or it was withdrawn. Ask the operator of the service for a viewer's token.",
          ),
        )
      : null,
    field.node,
    h("div", { class: "field-check" }, keep, h("label", { for: "keep" }, "Keep it when this tab is loaded again")),
    h("p", { class: "quiet" }, "Otherwise it stays in memory, and closing or reloading the tab forgets it."),
    h("div", { class: "form-end" }, h("button", { type: "submit", class: "primary" }, "Sign in")),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = token.value.trim();
    field.problem(isToken(text) ? null : "A token is letters, digits and . _ ~ + / - without spaces.");
    if (!isToken(text)) return token.focus();
    token.value = "";
    session.signIn(text, keep.checked);
    done();
  });
  return {
    title: "Sign in",
    node: h(
      "div",
      { class: "narrow" },
      h("h1", { tabindex: -1 }, "Sign in"),
      h(
        "p",
        { class: "lead" },
        "Who may look at the machines holds a viewer's token. ",
        h("a", { href: "#/check" }, "Checking a report"),
        " needs none.",
      ),
      form,
    ),
    stop() {
      token.value = "";
    },
  };
}
