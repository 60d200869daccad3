/// <reference lib="dom" />
import { h } from "./dom.ts";
import { withCode } from "./failure-view.ts";

/** What to do when there is no machine yet. */
export function emptyFleet(): HTMLElement {
  const step = (text: string, command: string) =>
    h("li", {}, h("p", {}, ...withCode(text)), h("pre", { tabindex: 0 }, h("code", {}, command)));
  const { origin } = window.location;
  return h(
    "div",
    { class: "card empty" },
    h("h2", {}, "No machine is enrolled yet"),
    h(
      "p",
      {},
      "Enrolling binds a machine's attestation key to its TPM, once, and gives it the name under which it appears here.",
    ),
    h(
      "ol",
      {},
      step(
        "An operator asks for a one-time token, made for this machine's name:",
        `ironclaw verifier invite vm-1 --to ${origin} --token operator.token --out vm-1.token`,
      ),
      step(
        "Whoever runs the machine enrols it with that token:",
        `ironclaw verifier enrol vm-1 --machine machine --to ${origin} --token vm-1.token`,
      ),
      step(
        "From then on its reports are carried here:",
        `ironclaw verifier push --machine machine --name vm-1 --to ${origin}`,
      ),
    ),
    h("p", { class: "quiet" }, "This list fills by itself as soon as the first machine is enrolled."),
  );
}
