import {
  type AppraisalPolicy,
  type AttestationResult,
  appraise,
  type Continuity,
  defaultAppraisalPolicy,
  defaultQuotePcrs,
  type EarKey,
  EvidenceRefused,
  explain,
  explainReasons,
  parseAppraisalPolicy,
  parseEnrolment,
  parseEvidence,
  type ReferenceValues,
  signEar,
  summarise,
  verifyEvidence,
} from "../../attest/index.ts";
import { parseAnchors, verifyReleaseSignatures } from "../../policy/index.ts";
import { type Command, type CommandInput, type CommandIo, UsageError } from "./command.ts";
import { readInput, writeOutput } from "./files.ts";
import { readHistory, writeHistory } from "./history.ts";
import { answer, JSON_OPTION, renderJson } from "./output.ts";
import { NONCE_BYTES } from "./report.ts";
import { openSigningKey, signingKeyOption } from "./signing-key.ts";

const MAX_TTL = 86_400;
const DEFAULT_TTL = 300;

export const command: Command = {
  summary: "verify a report and judge it against signed releases; exit code 1 when it is contraindicated",
  positionals: ["REPORT"],
  options: {
    nonce: { type: "string", value: "HEX", help: "the nonce that the report was asked for with", required: true },
    bank: { type: "string", value: "NAME", help: "the bank that was asked for: sha256 (default) or sha384" },
    reference: { type: "string", value: "FILE", help: "a signed release", required: true, multiple: true },
    anchors: { type: "string", value: "FILE", help: "trust anchors: who may sign releases", required: true },
    enrolment: { type: "string", value: "FILE", help: "what enrolment pinned for this machine", required: true },
    policy: { type: "string", value: "FILE", help: "appraisal policy (default: release images, no software TPM)" },
    challenged: { type: "string", value: "TIME", help: "when the nonce was made, in UTC (default: now)" },
    history: {
      type: "string",
      value: "FILE",
      help: "compare with the machine's last report, and keep this one for the next; made where there is none",
    },
    explain: { type: "boolean", help: "print expected and measured side by side" },
    ear: {
      ...signingKeyOption("sign the result as a token (EAR), with --challenged: P-256 key"),
      required: false,
    },
    "ear-out": { type: "string", value: "FILE", help: "write the token there instead of printing it" },
    "ear-ttl": { type: "string", value: "SECONDS", help: `how long the token is valid (default: ${DEFAULT_TTL})` },
    json: JSON_OPTION,
  },
  examples: [
    "ironclaw verify report.cbor --nonce 00ff... --reference release.json --anchors anchors.json --enrolment enrolment.json --policy appraisal.json --explain",
    "ironclaw verify report.cbor --nonce 00ff... --reference old.json --reference new.json --anchors anchors.json --enrolment enrolment.json --challenged 2027-01-31T08:00:00Z --history vm-1.json --ear verifier.pem --ear-out vm-1.jwt",
  ],
  run: async (input, io) => {
    try {
      return await verifyAndJudge(input, io);
    } catch (error) {
      if (error instanceof EvidenceRefused) showReasons(error, input, io);
      throw error;
    }
  },
};

interface Trusted {
  readonly challenge: {
    readonly nonce: Uint8Array;
    readonly bank: "sha256" | "sha384";
    readonly pcrs: readonly number[];
  };
  readonly challenged: Date | null;
  readonly policy: AppraisalPolicy;
  readonly releases: readonly ReferenceValues[];
  readonly enrolment: ReturnType<typeof parseEnrolment>;
  readonly previous: Continuity | null;
  readonly ear: { readonly key: EarKey; readonly ttlSeconds: number } | null;
}

async function verifyAndJudge(input: CommandInput, io: CommandIo): Promise<0 | 1> {
  const trusted = await readTrusted(input);
  const { challenge, challenged, policy, releases, enrolment, previous, ear } = trusted;
  const evidence = parseEvidence(await readInput(input.positional(0), "report"));
  const verified = await verifyEvidence(evidence, challenge, enrolment, previous);
  const now = new Date();
  const result = appraise(verified, releases, policy, { now, challenged: challenged ?? now });
  const history = input.optional("history");
  if (history !== undefined) await writeHistory(history, verified.continuity);
  const token = ear === null ? null : await signEar(result, { ...ear, now, nonce: challenge.nonce });
  const file = input.optional("ear-out");
  if (token !== null && file !== undefined) await writeOutput(file, `${token}\n`);
  const unchecked = [...(history === undefined ? ["continuity"] : []), ...(challenged === null ? ["freshness"] : [])];
  const text = [describe(input, result), ...notes(input, trusted)].join("\n");
  answer(input, io, { ...result, unchecked }, text);
  if (token !== null && file === undefined) io.print(token);
  return result.tier === "contraindicated" ? 1 : 0;
}

/** What the verifier trusts is read before what the machine sent. */
async function readTrusted(input: CommandInput): Promise<Trusted> {
  const challenge = {
    nonce: input.hex("nonce", NONCE_BYTES),
    bank: input.choice("bank", ["sha256", "sha384"]),
    pcrs: defaultQuotePcrs,
  };
  const ear = await readEarOptions(input);
  const challenged = input.time("challenged");
  const policyFile = input.optional("policy");
  const policy =
    policyFile === undefined
      ? defaultAppraisalPolicy
      : parseAppraisalPolicy(await readInput(policyFile, "appraisal policy"));
  const anchors = parseAnchors(await readInput(input.text("anchors"), "anchors"));
  const releases: ReferenceValues[] = [];
  for (const file of input.list("reference"))
    releases.push(await verifyReleaseSignatures(await readInput(file, "release"), anchors.releaseRoot));
  const enrolment = parseEnrolment(await readInput(input.text("enrolment"), "enrolment"));
  const history = input.optional("history");
  const previous = history === undefined ? null : await readHistory(history);
  return {
    ...{ challenge, policy, releases, enrolment, previous, ear },
    challenged: challenged === undefined ? null : new Date(challenged),
  };
}

async function readEarOptions(input: CommandInput): Promise<Trusted["ear"]> {
  const key = input.optional("ear");
  const ttlSeconds = input.integer("ear-ttl", 1, MAX_TTL) ?? DEFAULT_TTL;
  for (const name of ["ear-out", "ear-ttl"])
    if (key === undefined && input.optional(name) !== undefined)
      throw new UsageError(`--${name}`, { expected: "--ear too", got: "no key" });
  if (key === undefined) return null;
  // Whoever reads the token cannot see what was taken for granted here.
  if (input.optional("challenged") === undefined)
    throw new UsageError("--ear", { expected: "--challenged too", got: "no time of the challenge" });
  // One JSON document is what --json prints.
  if (input.flag("json") && input.optional("ear-out") === undefined)
    throw new UsageError("--ear", { expected: "--ear-out with --json", got: "none" });
  return { key: await openSigningKey(key), ttlSeconds };
}

function describe(input: CommandInput, result: AttestationResult): string {
  return input.flag("explain") ? explain(result) : summarise(result);
}

/** What was not compared is said: a verdict looks the same without it. */
function notes(input: CommandInput, { challenged, previous }: Trusted): readonly string[] {
  const history = input.optional("history");
  return [
    ...(history === undefined
      ? ["continuity: not checked, there is no --history to compare the machine's last report with"]
      : []),
    ...(history !== undefined && previous === null ? ["continuity: this is the first report in that history"] : []),
    ...(history !== undefined && previous !== null ? ["continuity: comes after the last report in that history"] : []),
    ...(challenged === null ? ["freshness: the challenge is taken to be from now, there is no --challenged"] : []),
  ];
}

/** Evidence that does not verify has no verdict, only reasons; the error that follows names them on one line. */
function showReasons({ code, reasons }: EvidenceRefused, input: CommandInput, io: CommandIo): void {
  if (input.flag("json")) io.print(renderJson({ error: code, reasons }));
  else if (input.flag("explain")) io.print(explainReasons(reasons));
}
