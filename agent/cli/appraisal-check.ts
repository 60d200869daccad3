import { type AppraisalPolicyDocument, fixedKeyAttributes, parseAppraisalPolicy } from "../../attest/index.ts";
import type { Command } from "./command.ts";
import { readInput } from "./files.ts";
import { answer, JSON_OPTION } from "./output.ts";

export const command: Command = {
  summary: "read an appraisal policy and say in words what it accepts",
  positionals: ["FILE"],
  options: { json: JSON_OPTION },
  examples: ["ironclaw appraisal check appraisal.json"],
  run: async (input, io) => {
    const { document, sha256 } = parseAppraisalPolicy(await readInput(input.positional(0), "appraisal policy"));
    const lines = [`appraisal policy ${document.name}, sha256 ${sha256}, accepts:`, ...inWords(document)];
    answer(input, io, { ok: true, sha256, policy: document }, lines.join("\n"));
    return 0;
  },
};

function inWords(policy: AppraisalPolicyDocument): readonly string[] {
  const { releases, variants, minAssurance, freshness, maxViolations, reboot, firmware } = policy;
  const keys = Object.entries({ ...policy.keyAttributes, ...fixedKeyAttributes });
  return [
    `releases: ${releases === "any" ? "any that the release root signed" : listed(releases, "none, so it refuses every machine")}`,
    `image variants: ${listed(variants, "none, so it refuses every machine")}`,
    `TPM: class ${minAssurance}${minAssurance === "hardware-ek" ? "" : " or better"}`,
    `age of the challenge: at most ${freshness.maxAgeSeconds} s`,
    ...libraryWords(policy),
    `sandbox profiles: ${policy.profiles === "as-released" ? "as released" : listed(policy.profiles, "none, so it refuses every machine")}`,
    `every served key reports: ${keys.map(([name, value]) => `${name} ${value}`).join(", ")}`,
    `denied calls of the library: ${maxViolations === 0 ? "none" : `up to ${maxViolations}, with a warning`}`,
    `a machine that has started again: ${REBOOT[reboot]}`,
    `firmware: ${FIRMWARE[firmware]}`,
  ].map((line) => `  ${line}`);
}

const REBOOT: Readonly<Record<AppraisalPolicyDocument["reboot"], string>> = {
  warn: "with a warning",
  accept: "without a word",
  refuse: "no",
};

const FIRMWARE: Readonly<Record<AppraisalPolicyDocument["firmware"], string>> = {
  pinned: "PCRs 0, 2 and 7 only with reference values, others without them with a warning",
  warn: "without reference values, with a warning",
  waived: "without reference values, without a word",
};

function libraryWords({ libraries }: AppraisalPolicyDocument): readonly string[] {
  if (libraries === "as-released") return ["libraries: as released"];
  if (libraries.length === 0) return ["libraries: none, so it refuses every machine"];
  return [
    "libraries, if they are also as released:",
    ...libraries.map(({ name, sha256, closure }) => {
      const objects = closure === "as-released" ? "closure as released" : `closure of ${Object.keys(closure).length}`;
      return `  ${name} ${sha256}, ${objects}`;
    }),
  ];
}

function listed(values: readonly string[], none: string): string {
  return values.join(", ") || none;
}
