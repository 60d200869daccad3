import {
  AttestError,
  describeEkCertificate,
  type EkDescription,
  orderChain,
  type TpmSubject,
  verifyEndorsement,
} from "../../attest/index.ts";
import { openEkCertificate, SealError } from "../../seal/index.ts";
import { ISSUER_OPTION, readCertificate, readIssuers } from "./certificate-files.ts";
import type { Command, CommandInput } from "./command.ts";
import { CA_SET_OPTION, readAnchorSet } from "./ek-options.ts";
import { answer, JSON_OPTION } from "./output.ts";

export const command: Command = {
  summary: "what an EK certificate says, and what a verifier with these trust anchors would take it for, or why not",
  positionals: ["CERTIFICATE"],
  options: {
    issuer: ISSUER_OPTION,
    "ca-set": CA_SET_OPTION,
    at: { type: "string", value: "TIME", help: "judge as of this time, e.g. 2027-11-01T00:00:00Z (default: now)" },
    json: JSON_OPTION,
  },
  examples: ["ironclaw ek show ek.der", "ironclaw ek show ek.der --issuer ek-issuer.pem --ca-set ek-anchors.json"],
  run: async (input, io) => {
    const certificate = await readCertificate(input.positional(0), "EK certificate");
    const description = describeEkCertificate(certificate);
    const facts = { ...description, seals: sealProblem(certificate), verdict: await judge(input, certificate) };
    answer(input, io, facts, render(facts));
    return facts.verdict?.kind === "refused" ? 1 : 0;
  },
};

type Verdict =
  | { readonly kind: "endorsed"; readonly assurance: string; readonly anchor: string; readonly profile: string }
  | { readonly kind: "refused"; readonly item: string; readonly expected: string; readonly got: string };

interface Facts extends EkDescription {
  /** Why nothing can be sealed to the key; `null` when it can. */
  readonly seals: string | null;
  /** `null` where no trust anchors were given. */
  readonly verdict: Verdict | null;
}

async function judge(input: CommandInput, certificate: Uint8Array): Promise<Verdict | null> {
  const set = input.optional("ca-set");
  if (set === undefined) return null;
  const chain = orderChain(certificate, await readIssuers(input));
  const anchors = await readAnchorSet(set);
  const time = input.time("at");
  try {
    const { assurance, anchor, profile } = verifyEndorsement(
      chain,
      anchors,
      time === undefined ? new Date() : new Date(time),
    );
    return { kind: "endorsed", assurance, anchor, profile };
  } catch (error) {
    if (!(error instanceof AttestError) || error.code !== "ERR_ENDORSEMENT_REFUSED") throw error;
    const { expected = "an EK certificate", got = "another" } = error;
    const item = error.message.split(":", 1)[0] ?? error.message;
    return { kind: "refused", item, expected, got };
  }
}

function sealProblem(certificate: Uint8Array): string | null {
  try {
    openEkCertificate(certificate);
    return null;
  } catch (error) {
    if (error instanceof SealError) return error.message;
    throw error;
  }
}

function render(facts: Facts): string {
  const names = facts.profiles.map(({ profile, ekName }) => `${profile} ${ekName}`);
  return [
    ["subject", facts.subject],
    ["issuer", facts.issuer],
    ["serial", facts.serial],
    ["valid", `${facts.notBefore} to ${facts.notAfter}`],
    ["signature", facts.signature],
    ["TPM", renderTpm(facts.tpm)],
    ["purposes", facts.purposes.join(", ") || "none"],
    ...(facts.authority ? [["authority", "yes: no EK certificate"]] : []),
    ...(facts.unsupported.length === 0 ? [] : [["unsupported", facts.unsupported.join(", ")]]),
    ["EK Name", names.join(", or ") || (facts.keyProblem ?? "none")],
    ["sealing", facts.seals === null ? "possible" : `not possible: ${facts.seals}`],
    ["verdict", renderVerdict(facts.verdict)],
  ]
    .map(([label = "", text = ""]) => `${label.padEnd(12)} ${text}`)
    .join("\n");
}

function renderTpm({ manufacturer, model, version }: TpmSubject): string {
  if (manufacturer === null) return "does not say";
  return [`${manufacturer}${vendorLetters(manufacturer)}`, model, version].filter((part) => part !== null).join(", ");
}

/** A vendor ID is four letters in hexadecimal, padded with zeros or spaces. */
function vendorLetters(manufacturer: string): string {
  const digits = /^id:([0-9A-Fa-f]{8})$/.exec(manufacturer)?.[1];
  const letters =
    digits === undefined
      ? ""
      : Buffer.from(digits, "hex")
          .toString("latin1")
          .replace(/[\0 ]+$/, "");
  return /^[A-Za-z0-9]{2,4}$/.test(letters) ? ` (${letters})` : "";
}

function renderVerdict(verdict: Verdict | null): string {
  if (verdict === null) return "none without --ca-set";
  if (verdict.kind === "endorsed")
    return `${verdict.assurance}, by ${verdict.anchor}; taken for ${verdict.profile} unless the machine says otherwise`;
  return `refused: ${verdict.item}: expected ${verdict.expected}, got ${verdict.got}`;
}
