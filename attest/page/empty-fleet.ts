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
        "An operator makes a one-time token for the machine:",
        `curl -H "Authorization: Bearer $OPERATOR_TOKEN" -H "Content-Type: application/json" \\\n  -d '{"name":"vm-1","ttlSeconds":3600}' ${origin}/v1/enrolment-tokens`,
      ),
      step(
        "The token goes to the machine, which enrols itself with it and reports from then on. What to give it is in `agent/cli/README.md`.",
        `ironclaw verifier enrol vm-1 --service ${origin} --token TOKEN`,
      ),
    ),
    h("p", { class: "quiet" }, "This list fills by itself as soon as the first machine is enrolled."),
  );
}
