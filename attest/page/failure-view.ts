/// <reference lib="dom" />
import { type FailureKind, ServiceFailure } from "./client.ts";
import { h } from "./dom.ts";

const advice: Readonly<Record<FailureKind, readonly [title: string, todo: string]>> = {
  down: [
    "The service does not answer",
    "See whether `ironclaw verifier serve` runs and its address is reachable. What is shown below may be old; the page tries again by itself.",
  ],
  token: ["The token was refused", "It may have expired or been withdrawn. Sign in with another viewer's token."],
  role: ["This token may not do that", "A viewer's token reads and judges again; changes need an operator's."],
  absent: ["Not found", "The machine was retired or the report is no longer kept. Go back to the list of machines."],
  limited: ["Too many requests", "The service asks this page to slow down. It waits, then goes on by itself."],
  strange: [
    "The service answered something else",
    "Page and service may be of different versions: load the page again.",
  ],
  refused: ["The service refused", "The reason stands below."],
};

/** What went wrong, and what to do about it. */
export function failureView(error: unknown): HTMLElement {
  const failure = error instanceof ServiceFailure ? error : new ServiceFailure("strange", "the page itself failed");
  const [title, todo] = advice[failure.kind];
  const wait = failure.retryAfterSeconds === null ? null : ` Next try in ${failure.retryAfterSeconds} seconds.`;
  return h(
    "div",
    { class: "notice notice-bad", role: "alert" },
    h("p", { class: "notice-title" }, title),
    h("p", {}, ...withCode(todo), wait),
    failure.code === null && failure.kind === "down"
      ? null
      : h("p", { class: "quiet" }, failure.message, failure.hint === null ? null : `. ${failure.hint}`),
  );
}

/** Text in which backticks mark what is to be typed. */
export function withCode(text: string): readonly (string | HTMLElement)[] {
  return text.split("`").map((part, index) => (index % 2 === 0 ? part : h("code", {}, part)));
}
