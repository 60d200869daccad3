import type { Reason } from "../../attest/index.ts";
import type { TpmAnswer } from "../../seal/index.ts";

/**
 * The life of one launch. It only moves down this list, and every way out of it before `serving` goes through
 * `refused`, whose cap closes the agent PCR for the rest of this boot.
 */
export type LaunchState =
  | { readonly kind: "booted" }
  | { readonly kind: "measuring" }
  | { readonly kind: "unsealing" }
  | { readonly kind: "logging-in" }
  | { readonly kind: "checking-keys" }
  | { readonly kind: "capping" }
  | { readonly kind: "serving"; readonly scopes: readonly string[] }
  | { readonly kind: "refused"; readonly reasons: readonly Reason[]; readonly answers: readonly TpmAnswer[] }
  | { readonly kind: "stopped"; readonly reasons: readonly Reason[] };

export type LaunchPhase = LaunchState["kind"];

const ORDER: readonly LaunchPhase[] = [
  "booted",
  "measuring",
  "unsealing",
  "logging-in",
  "checking-keys",
  "capping",
  "serving",
  "refused",
  "stopped",
];

/** Whether a launch in state `from` may go to `to`: forward only, and never from `serving` back to `refused`. */
export function mayFollow(from: LaunchPhase, to: LaunchPhase): boolean {
  if (from === "serving" || from === "refused") return to === "stopped";
  return ORDER.indexOf(to) > ORDER.indexOf(from);
}
