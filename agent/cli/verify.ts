import {
  type AttestationResult,
  appraise,
  defaultAppraisalPolicy,
  defaultQuotePcrs,
  EvidenceRefused,
  explain,
  explainReasons,
  parseAppraisalPolicy,
  parseEnrolment,
  parseEvidence,
  verifyEvidence,
} from "../../attest/index.ts";
import { parseAnchors, verifyRelease } from "../../policy/index.ts";
import type { Command, CommandInput, CommandIo } from "./command.ts";
import { readInput } from "./files.ts";
import { answer, JSON_OPTION, renderJson } from "./output.ts";
import { NONCE_BYTES } from "./report.ts";

export const command: Command = {
  summary: "verify a report and judge it against a signed release; exit code 1 when it is contraindicated",
  positionals: ["REPORT"],
  options: {
    nonce: { type: "string", value: "HEX", help: "the nonce that the report was asked for with", required: true },
    bank: { type: "string", value: "NAME", help: "the bank that was asked for: sha256 (default) or sha384" },
    reference: { type: "string", value: "FILE", help: "the signed release", required: true },
    anchors: { type: "string", value: "FILE", help: "trust anchors: who may sign releases", required: true },
    enrolment: { type: "string", value: "FILE", help: "what enrolment pinned for this machine", required: true },
    policy: { type: "string", value: "FILE", help: "appraisal policy (default: release images, no software TPM)" },
    explain: { type: "boolean", help: "print expected and measured side by side" },
    json: JSON_OPTION,
  },
  examples: [
    "ironclaw verify report.cbor --nonce 00ff... --reference release.json --anchors anchors.json --enrolment enrolment.json --policy appraisal.json --explain",
  ],
  run: async (input, io) => {
    try {
      const result = await judge(input);
      answer(input, io, result, input.flag("explain") ? explain(result) : summarise(result));
      return result.tier === "contraindicated" ? 1 : 0;
    } catch (error) {
      if (error instanceof EvidenceRefused) showReasons(error, input, io);
      throw error;
    }
  },
};

/** Reads what the verifier trusts first, what the machine sent last. */
async function judge(input: CommandInput): Promise<AttestationResult> {
  const challenge = {
    nonce: input.hex("nonce", NONCE_BYTES),
    bank: input.choice("bank", ["sha256", "sha384"]),
    pcrs: defaultQuotePcrs,
  };
  const policyFile = input.optional("policy");
  const policy =
    policyFile === undefined
      ? defaultAppraisalPolicy
      : parseAppraisalPolicy(await readInput(policyFile, "appraisal policy"));
  const anchors = parseAnchors(await readInput(input.text("anchors"), "anchors"));
  const release = await verifyRelease(await readInput(input.text("reference"), "release"), anchors.releaseRoot);
  const enrolment = parseEnrolment(await readInput(input.text("enrolment"), "enrolment"));
  const evidence = parseEvidence(await readInput(input.positional(0), "report"));
  const verified = await verifyEvidence(evidence, challenge, enrolment, null);
  const now = new Date();
  return appraise(verified, [release], policy, { now, challenged: now });
}

/** Evidence that does not verify has no verdict, only reasons; the error that follows names them on one line. */
function showReasons({ code, reasons }: EvidenceRefused, input: CommandInput, io: CommandIo): void {
  if (input.flag("json")) io.print(renderJson({ error: code, reasons }));
  else if (input.flag("explain")) io.print(explainReasons(reasons));
}

function summarise(result: AttestationResult): string {
  const { machine, tier, launch, assurance, release, findings } = result;
  return [
    `${machine}: ${tier} (launch ${launch}, ${assurance}, release ${release})`,
    ...findings.map(({ code, item, expected, got }) => `  ${code} ${item}: expected ${expected}, got ${got}`),
  ].join("\n");
}
