import { compareDevices, type LaunchEvent, pcrBanks, type Reason, reason, reasonFrom } from "../../attest/index.ts";
import { fromHex, type NamedModule, type Release, SEAL_PCRS, sortedTokens, toHex } from "../../policy/index.ts";
import { AgentError } from "../errors.ts";
import type { ShimDigest } from "../spawner-client.ts";
import { askTpmState } from "./ask-tpm.ts";
import { answersOf, type LaunchEnvironment, type LaunchRecord, Refusal } from "./environment.ts";
import { documentEvents, launchEvents, type ModuleFiles, pinnedDigest } from "./expected-events.ts";
import { type PlannedFile, planShimFiles, SHIM_PATH } from "./files.ts";
import type { LaunchInputs } from "./inputs.ts";
import { measuringOrder, type PlannedShim, planShims } from "./shim-plan.ts";
import { together } from "./together.ts";
import { credentialReasons, type TpmStates } from "./tpm-check.ts";
import { askTpm } from "./unseal.ts";

/** agent.json, anchors, policy: measured before anything in them is acted on. */
const DOCUMENT_EVENTS = 3;

/** What the TPM itself refuses for, and is asked about. Of all other reasons it knows nothing, and would release. */
const REFUSED_BY_TPM: ReadonlySet<string> = new Set([
  "agent-pcr-used",
  "library-mismatch",
  "measurement-changed",
  "pcr-changed",
  "release-key-revoked",
  "release-revoked",
]);

/**
 * Where the TPM lacks what the question needs, or may hold that everything is frozen, it is not asked: nothing may be imported into a TPM that is not this machine's, and a
 * foreign index in the counter's place could cost a count of the lockout.
 */
const UNASKABLE: ReadonlySet<string> = new Set([
  "endorsement-auth-set",
  "epoch-foreign",
  "epoch-unwritten",
  "freeze-foreign",
  "freeze-missing",
  "frozen",
  "hierarchy-disabled",
  "parent-changed",
  "tpm-cleared",
  "tpm-not-provisioned",
  "tpm-replaced",
  "wrong-hierarchy",
]);

/** What a launch goes on with once everything measured as one release says. */
export interface MeasuredInputs extends LaunchInputs {
  readonly release: Release;
}

/**
 * Measure every document and file, name each difference from pin and release, and return the inputs when there is none.
 * @throws Refusal with all reasons, after the TPM was asked to unseal all the same
 */
export async function measureEverything(environment: LaunchEnvironment, record: LaunchRecord): Promise<MeasuredInputs> {
  const { inputs } = environment;
  const [, used] = await together(requireBanks(environment), agentPcrReasons(environment));
  const reasons: Reason[] = [...used, ...inputs.reasons, ...deviceReasons(environment)];
  const documents = await measureDocuments(environment);
  // The spawner copies while the TPM tells its state: neither waits for the other.
  const [copied, tpm] = await Promise.all([
    copyFiles(environment),
    askTpmState(environment, completeOf(inputs.partial)),
  ]);
  reasons.push(...copied.reasons, ...tpm.reasons);
  const events = [...documents, ...(await measureFiles(environment, copied.files, reasons))];
  const chosen = await chooseRelease(environment, events, tpm.states);
  if (chosen !== null) {
    record.release = chosen.release;
    reasons.push(...chosen.reasons);
  }
  if (reasons.length > 0 || chosen === null || !isComplete(inputs.partial)) {
    const matters = (codes: ReadonlySet<string>) => reasons.some(({ code }) => codes.has(code));
    if (chosen !== null && matters(REFUSED_BY_TPM) && !matters(UNASKABLE))
      await askTpmAnyway(environment, record, { ...inputs.partial, ...tpm.imported, release: chosen.release }, reasons);
    throw new Refusal(reasons);
  }
  return { ...inputs.partial, ...tpm.imported, release: chosen.release };
}

interface CopiedFiles {
  /** Of each shim, in the order in which they are measured; null when they were not all copied. */
  readonly files: readonly ModuleFiles[] | null;
  readonly reasons: readonly Reason[];
}

/** A file that cannot be copied is one more reason. */
async function copyFiles(environment: LaunchEnvironment): Promise<CopiedFiles> {
  const { partial } = environment.inputs;
  if (!isComplete(partial)) return { files: null, reasons: [] };
  const reasons: Reason[] = [];
  try {
    return { files: await prepareShims(environment, partial, reasons), reasons };
  } catch (error) {
    return { files: null, reasons: [...reasons, notCopied(error)] };
  }
}

function notCopied(error: unknown): Reason {
  return reasonFrom(error, "files of the shim");
}

/** Extends what was really copied, whether it matches the pin or not (I1). What was measured stays measured if this fails. */
async function measureFiles(
  environment: LaunchEnvironment,
  copies: readonly ModuleFiles[] | null,
  reasons: Reason[],
): Promise<readonly LaunchEvent[]> {
  const { configBytes, devices, inputs } = environment;
  if (copies === null) return [];
  const events = launchEvents({ ...inputs.partial, configBytes }, copies, devices).slice(DOCUMENT_EVENTS);
  try {
    await environment.log.measureAll(events);
    return events;
  } catch (error) {
    reasons.push(notCopied(error));
    return [];
  }
}

function completeOf(partial: Partial<LaunchInputs>): LaunchInputs | null {
  return isComplete(partial) ? partial : null;
}

function isComplete(partial: Partial<LaunchInputs>): partial is LaunchInputs {
  const { anchors, policy, releases, credentials, module, token } = partial;
  return [anchors, policy, releases, credentials, module, token].every((part) => part !== undefined);
}

/** Every event goes into both banks, and a report is made of either. */
async function requireBanks({ tpm }: LaunchEnvironment): Promise<void> {
  const active = await tpm.activeBanks();
  const lacking = pcrBanks.filter((bank) => !active.includes(bank));
  if (lacking.length > 0)
    throw new Refusal(lacking.map((bank) => reason("pcr-bank-inactive", `${bank} bank`, "active", "not allocated")));
}

async function agentPcrReasons({ tpm, config }: LaunchEnvironment): Promise<Reason[]> {
  const reasons: Reason[] = [];
  for (const bank of pcrBanks) {
    const value = (await tpm.pcrRead(bank, [config.agentPcr])).get(config.agentPcr);
    if (value?.every((byte) => byte === 0) !== true)
      reasons.push(
        reason(
          "agent-pcr-used",
          `PCR ${config.agentPcr} (${bank})`,
          "its reset value",
          toHex(value ?? new Uint8Array()),
        ),
      );
  }
  return reasons;
}

/** What the machine shows and the policy does not name, one by one: a whole controller, where one device was meant, is such a one. */
function deviceReasons({ devices, inputs }: LaunchEnvironment): readonly Reason[] {
  const { policy } = inputs.partial;
  if (policy === undefined) return [];
  const foreign = compareDevices(policy.devices, devices).filter(({ change }) => change === "added");
  return foreign.map(({ device }) => reason("device-foreign", device, "a device of the policy", "another one"));
}

async function measureDocuments(environment: LaunchEnvironment): Promise<readonly LaunchEvent[]> {
  const { configBytes, inputs } = environment;
  const events = documentEvents({
    configBytes,
    anchorsBytes: inputs.partial.anchorsBytes,
    policyBytes: inputs.partial.policyBytes,
  });
  await environment.log.measureAll(events);
  return events;
}

/**
 * Fill every shim's private root. What two shims share is one event; a copy that came out otherwise is an event that no release has.
 * @param reasons also of those that were copied when it rejects
 */
async function prepareShims(
  environment: LaunchEnvironment,
  inputs: LaunchInputs,
  reasons: Reason[],
): Promise<readonly ModuleFiles[]> {
  const copies: ModuleFiles[] = [];
  for (const shim of measuringOrder(planShims(inputs.policy)))
    copies.push(await prepareShim(environment, inputs, reasons, shim));
  return copies;
}

async function prepareShim(
  environment: LaunchEnvironment,
  inputs: LaunchInputs,
  reasons: Reason[],
  { id, module }: PlannedShim,
): Promise<ModuleFiles> {
  const plan = planShimFiles(environment.config, module, inputs);
  const copied = await environment.spawner.prepareShim(
    id,
    plan.map((file) => resolved(environment, file)),
  );
  const digests = new Map(plan.map((file, index) => [file.path, toHex(digestAt(copied, index))]));
  reasons.push(...pinReasons(module, plan, digests));
  return { module, plan, digestOf: (path) => fromHex(digests.get(path) ?? "") };
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
function pinReasons(module: NamedModule, plan: readonly PlannedFile[], digests: ReadonlyMap<string, string>): Reason[] {
  return plan.flatMap((file) => {
    if (file.path === SHIM_PATH || file.role === "token") return [];
    const expected = pinnedDigest(module, file.path);
    const got = digests.get(file.path) ?? "nothing";
    return expected === got ? [] : [reason("library-mismatch", file.path, expected, got)];
  });
}

interface ChosenRelease {
  readonly release: Release;
  readonly reasons: readonly Reason[];
}

/** The release that the measurements belong to, else the one they come nearest to; null when there is none to compare with. */
async function chooseRelease(
  environment: LaunchEnvironment,
  events: readonly LaunchEvent[],
  states: TpmStates | null,
): Promise<ChosenRelease | null> {
  const { partial } = environment.inputs;
  const boot = await environment.tpm.pcrRead("sha256", SEAL_PCRS);
  const candidates = (partial.releases ?? []).map((release) => {
    const differences = [...eventReasons(release, events), ...pcrReasons(release, boot)];
    const others = isComplete(partial) && states ? credentialReasons(environment, partial, states, release) : [];
    return { release, differences: differences.length, reasons: [...differences, ...others] };
  });
  // What was measured counts first: a release of other measurements is not this machine's, however well it stands otherwise. Of equals
  // the later one serves, and one that raises the counter: whichever serves, the earlier one has to come to its end.
  const [nearest] = candidates.sort(
    (a, b) =>
      a.differences - b.differences ||
      a.reasons.length - b.reasons.length ||
      b.release.epoch - a.release.epoch ||
      Number(b.release.raise !== null) - Number(a.release.raise !== null),
  );
  return nearest ?? null;
}

/** Each agent event that differs, by itself. The TPM decides, this explains. */
function eventReasons(release: Release, events: readonly LaunchEvent[]): Reason[] {
  const reasons: Reason[] = [];
  const measured = new Map(events.map(({ kind, name, sha256 }) => [`${kind} ${name}`, toHex(sha256)]));
  for (const { kind, name, sha256 } of release.events) {
    const item = `${kind} ${name}`;
    const got = measured.get(item) ?? "nothing";
    if (got !== sha256) reasons.push(reason("measurement-changed", item, sha256, got));
    measured.delete(item);
  }
  for (const [item, got] of measured) reasons.push(reason("measurement-changed", item, "nothing", got));
  return reasons;
}

/** The PCRs, which see the events' order too. */
function pcrReasons(release: Release, boot: ReadonlyMap<number, Uint8Array>): Reason[] {
  return SEAL_PCRS.flatMap((index) => {
    const expected = release.pcrs.sha256[String(index)] ?? "a predicted value";
    const got = toHex(boot.get(index) ?? new Uint8Array());
    return expected === got ? [] : [reason("pcr-changed", `PCR ${index} (sha256)`, expected, got)];
  });
}

/**
 * After a mismatch the TPM is asked for the PIN all the same: it refuses, not a comparison in this code. Its data are discarded.
 * One credential speaks for all: they are sealed under the same measurements.
 */
async function askTpmAnyway(
  environment: LaunchEnvironment,
  record: LaunchRecord,
  { anchors, policy, credentials, release }: Partial<LaunchInputs> & Pick<MeasuredInputs, "release">,
  reasons: Reason[],
): Promise<void> {
  const [token] = policy === undefined ? [] : sortedTokens(policy);
  const credential = token === undefined ? credentials?.values().next().value : credentials?.get(token.pin);
  if (anchors === undefined || credential === undefined) return;
  try {
    const answer = await askTpm(environment, { credential, release, anchors }, []);
    record.answers = [...record.answers, ...answersOf(answer)];
    if (answer.kind === "discarded")
      reasons.push(reason("tpm-would-release", "TPM2_Unseal", "a refusal by the TPM", "data, discarded"));
  } catch (error) {
    reasons.push(...(error instanceof Refusal ? error.reasons : [reasonFrom(error, "unsealer")]));
  }
}
