import { sha256Hex } from "../../policy/index.ts";
import type { ApprovalText } from "../approvals/index.ts";
import type { ShownRequest } from "./approve-requests.ts";

/** The bytes that are signed, line by line between two rules, and beside them what they mean. */
export function showRequest(shown: ShownRequest, misfits: readonly string[], now: number): readonly string[] {
  const { bytes, text } = shown;
  return [
    `----- what is signed: ${bytes.length} bytes, sha256 ${sha256Hex(bytes)}`,
    ...new TextDecoder().decode(bytes).trimEnd().split("\n"),
    "----- what it means",
    ...meaningOf(text),
    ...standing(shown),
    ...misfits.map((misfit) => `DOES NOT FIT: ${misfit}`),
    ...lateness(text, now),
  ];
}

function meaningOf(text: ApprovalText): readonly string[] {
  if (text.for === "window")
    return [
      `${text.caller} may do whatever scope ${text.scope} allows, any number of times within its limits, until ${text.until}:`,
      `  keys ${text.keys}; mechanisms ${text.mechanisms}`,
    ];
  return [
    `${text.caller} may ${text.operation} once with key ${text.key}, through scope ${text.scope}, until ${text.expires}`,
    `  by ${text.mechanism} with parameters ${text.parameters}`,
    `  ${ABOUT[text.operation] ?? "the input's bytes are those for the token"}; --input FILE compares it with yours`,
  ];
}

const ABOUT: Readonly<Record<string, string>> = {
  sign: "input is SHA-256 of the bytes for the token, which are mostly a digest of the document themselves",
  decrypt: "input is SHA-256 of the ciphertext; the caller gets the plaintext",
  unwrap: "input is SHA-256 of the wrapped key, which comes in as the policy says",
};

function standing({ approvers, required, of, secondsLeft }: ShownRequest): readonly string[] {
  const given =
    approvers.length === 0 ? "nobody has" : `${approvers.join(", ")} ${approvers.length === 1 ? "has" : "have"}`;
  return [
    `as the machine says, which nobody signs: ${required} of ${of.join(", ")} must approve, ${given}; ${secondsLeft} s are left`,
  ];
}

/** The machine goes by a clock of its own; but times that are none of today are worth a look. */
function lateness(text: ApprovalText, now: number): readonly string[] {
  const ends = text.for === "window" ? text.until : text.expires;
  return Date.parse(ends) > now ? [] : [`LOOK: by this computer's clock ${ends} is past`];
}
