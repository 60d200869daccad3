import {
  appraise,
  defaultAppraisalPolicy,
  defaultQuotePcrs,
  explain,
  parseAppraisalPolicy,
  parseEnrolment,
  parseEvidence,
  verifyEvidence,
} from "../../attest/index.ts";
import { parseAnchors, verifyRelease } from "../../policy/index.ts";
import { type Command, UsageError } from "./command.ts";
import { readInput } from "./files.ts";
import { parseNonce } from "./report.ts";

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
    json: { type: "boolean", help: "print one JSON document" },
  },
  examples: [
    "ironclaw verify report.cbor --nonce 00ff... --reference release.json --anchors anchors.json --enrolment machine.json --policy appraisal.json --explain",
  ],
  run: async (input, io) => {
    const bank = input.optional("bank") ?? "sha256";
    if (bank !== "sha256" && bank !== "sha384")
      throw new UsageError("--bank", { expected: "sha256 or sha384", got: bank });
    const policyFile = input.optional("policy");
    const policy =
      policyFile === undefined
        ? defaultAppraisalPolicy
        : parseAppraisalPolicy(await readInput(policyFile, "appraisal policy"));
    const anchors = parseAnchors(await readInput(input.text("anchors"), "anchors"));
    const release = await verifyRelease(await readInput(input.text("reference"), "release"), anchors.releaseRoot);
    const enrolment = parseEnrolment(await readInput(input.text("enrolment"), "enrolment"));
    const evidence = parseEvidence(await readInput(input.positional(0), "report"));
    const verified = await verifyEvidence(
      evidence,
      { nonce: parseNonce(input), bank, pcrs: defaultQuotePcrs },
      enrolment,
    );
    const result = appraise(verified, release, policy, new Date());
    if (input.flag("json")) io.print(JSON.stringify(result, null, 2));
    else if (input.flag("explain")) io.print(explain(result));
    else {
      io.print(
        `${result.machine}: ${result.tier} (launch ${result.launch}, ${result.assurance}, release ${result.release})`,
      );
      for (const { code, item, expected, got } of result.findings)
        io.print(`  ${code} ${item}: expected ${expected}, got ${got}`);
    }
    return result.tier === "contraindicated" ? 1 : 0;
  },
};
