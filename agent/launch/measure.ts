import { type LaunchEvent, type Reason, reason, reasonFrom } from "../../attest/index.ts";
import { fromHex, type Policy, SEAL_PCRS, toHex } from "../../policy/index.ts";
import { runUnsealer, unsealRequest } from "../../seal/index.ts";
import { AgentError } from "../errors.ts";
import type { ShimDigest } from "../spawner-client.ts";
import { answersOf, type LaunchEnvironment, type LaunchRecord, Refusal, SHIM_ID } from "./environment.ts";
import { documentEvents, launchEvents, pinnedDigest } from "./expected-events.ts";
import { type PlannedFile, planShimFiles, SHIM_PATH } from "./files.ts";
import type { LaunchInputs } from "./inputs.ts";

/** agent.json, anchors, policy: measured before anything in them is acted on. */
const DOCUMENT_EVENTS = 3;

/**
 * Measure every document and file, name each difference from pin and release, and return the inputs when there is none.
 * @throws Refusal with all reasons, after the TPM was asked to unseal all the same
 */
export async function measureEverything(environment: LaunchEnvironment, record: LaunchRecord): Promise<LaunchInputs> {
  const { inputs } = environment;
  const reasons: Reason[] = [...(await agentPcrReasons(environment)), ...inputs.reasons];
  const documents = await measureDocuments(environment);
  const events = [...documents, ...(await measureFiles(environment, record, reasons))];
  await compareWithRelease(environment, events, reasons);
  if (reasons.length > 0 || !isComplete(inputs.partial)) {
    await askTpmAnyway(environment, record, reasons);
    throw new Refusal(reasons);
  }
  return inputs.partial;
}

/** A file that cannot be copied is one more reason; what was measured before it stays measured. */
async function measureFiles(
  environment: LaunchEnvironment,
  record: LaunchRecord,
  reasons: Reason[],
): Promise<readonly LaunchEvent[]> {
  const { partial } = environment.inputs;
  if (!isComplete(partial)) return [];
  try {
    return await measureShim(environment, partial, record, reasons);
  } catch (error) {
    reasons.push(reasonFrom(error, "files of the shim"));
    return [];
  }
}

function isComplete(partial: Partial<LaunchInputs>): partial is LaunchInputs {
  const { anchors, policy, release, sealed, module, token } = partial;
  return [anchors, policy, release, sealed, module, token].every((part) => part !== undefined);
}

async function agentPcrReasons({ tpm, config }: LaunchEnvironment): Promise<Reason[]> {
  const reasons: Reason[] = [];
  for (const bank of ["sha256", "sha384"] as const) {
    const value = (await tpm.pcrRead(bank, [config.agentPcr])).get(config.agentPcr);
    if (value === undefined || value.some((byte) => byte !== 0)) {
      const got = value === undefined ? "an inactive bank" : toHex(value);
      reasons.push(reason("agent-pcr-used", `PCR ${config.agentPcr} (${bank})`, "its reset value", got));
    }
  }
  return reasons;
}

async function measureDocuments(environment: LaunchEnvironment): Promise<readonly LaunchEvent[]> {
  const { configBytes, inputs } = environment;
  const events = documentEvents({
    configBytes,
    anchorsBytes: inputs.partial.anchorsBytes,
    policyBytes: inputs.partial.policyBytes,
  });
  for (const event of events) await environment.log.measure(event);
  return events;
}

/** Fill the shim's private root and extend what was really copied, whether it matches the pin or not (I1). */
async function measureShim(
  environment: LaunchEnvironment,
  inputs: LaunchInputs,
  record: LaunchRecord,
  reasons: Reason[],
): Promise<readonly LaunchEvent[]> {
  const { config, configBytes, devices } = environment;
  const plan = planShimFiles(config, inputs);
  const digests = await environment.spawner.prepareShim(
    SHIM_ID,
    plan.map((file) => resolved(environment, file)),
  );
  record.digests = new Map(plan.map((file, index) => [file.path, toHex(digestAt(digests, index))]));
  reasons.push(...pinReasons(inputs.policy, plan, record.digests));
  const digestOf = (path: string) => fromHex(record.digests.get(path) ?? "");
  const events = launchEvents({ ...inputs, config, configBytes }, plan, digestOf, devices).slice(DOCUMENT_EVENTS);
  for (const event of events) await environment.log.measure(event);
  return events;
}

function resolved(environment: LaunchEnvironment, file: PlannedFile): PlannedFile {
  if (file.source.kind === "cabinet") return file;
  return { ...file, source: { kind: "root", path: environment.realPath(file.source.path) } };
}

function digestAt(digests: readonly ShimDigest[], index: number): Uint8Array {
  const digest = digests[index];
  if (digest === undefined)
    throw new AgentError("ERR_SPAWNER", "prepare-shim", { expected: `a digest for file ${index}`, got: "none" });
  return digest.sha256;
}

/** The pin: each file's digest as the policy has it. */
function pinReasons(policy: Policy, plan: readonly PlannedFile[], digests: ReadonlyMap<string, string>): Reason[] {
  return plan.flatMap((file) => {
    if (file.path === SHIM_PATH || file.role === "token") return [];
    const expected = pinnedDigest(policy, file.path);
    const got = digests.get(file.path) ?? "nothing";
    return expected === got ? [] : [reason("library-mismatch", file.path, expected, got)];
  });
}

/**
 * Name what differs from the release: each agent event by itself, then the PCRs, which see the events' order too. The TPM
 * decides, this explains.
 */
async function compareWithRelease(
  environment: LaunchEnvironment,
  events: readonly LaunchEvent[],
  reasons: Reason[],
): Promise<void> {
  const { release } = environment.inputs.partial;
  if (release === undefined) return;
  const measured = new Map(events.map(({ kind, name, sha256 }) => [`${kind} ${name}`, toHex(sha256)]));
  for (const { kind, name, sha256 } of release.events) {
    const item = `${kind} ${name}`;
    const got = measured.get(item) ?? "nothing";
    if (got !== sha256) reasons.push(reason("measurement-changed", item, sha256, got));
    measured.delete(item);
  }
  for (const [item, got] of measured) reasons.push(reason("measurement-changed", item, "nothing", got));
  const boot = await environment.tpm.pcrRead("sha256", SEAL_PCRS);
  for (const index of SEAL_PCRS) {
    const expected = release.pcrs.sha256[String(index)] ?? "a predicted value";
    const got = toHex(boot.get(index) ?? new Uint8Array());
    if (expected !== got) reasons.push(reason("pcr-changed", `PCR ${index} (sha256)`, expected, got));
  }
}

/** After a mismatch the TPM is asked all the same: it refuses, not a comparison in this code. Its data are discarded. */
async function askTpmAnyway(environment: LaunchEnvironment, record: LaunchRecord, reasons: Reason[]): Promise<void> {
  const { sealed, release, anchors } = environment.inputs.partial;
  if (!sealed || !release || !anchors) return;
  try {
    const answer = await runUnsealer({
      path: `${environment.config.programs}/unsealer`,
      tcti: environment.config.tcti,
      request: unsealRequest(sealed, release, anchors),
      sinks: [],
      discard: true,
    });
    record.answers = answersOf(answer);
    if (answer.kind === "discarded")
      reasons.push(reason("tpm-would-release", "TPM2_Unseal", "a refusal by the TPM", "data, discarded"));
  } catch (error) {
    reasons.push(reasonFrom(error, "unsealer"));
  }
}
