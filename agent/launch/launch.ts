import { createPublicKey, randomBytes, verify } from "node:crypto";
import { open } from "node:fs/promises";
import { type LaunchEvent, type Reason, reason, reasonFrom, type Tpm } from "../../attest/index.ts";
import { fromHex, mechanismRow, type Policy, SEAL_PCRS, sha256, toHex } from "../../policy/index.ts";
import { runUnsealer, type TpmAnswer, type UnsealAnswer, unsealRequest } from "../../seal/index.ts";
import type { AgentConfig } from "../config.ts";
import { AgentError } from "../errors.ts";
import type { Shim } from "../shim-client.ts";
import type { ProbeAttempt, ShimSlot } from "../shim-replies.ts";
import type { ShimDigest, Spawner } from "../spawner-client.ts";
import { documentEvents, launchEvents, pinnedDigest } from "./expected-events.ts";
import { type PlannedFile, planShimFiles, SHIM_PATH } from "./files.ts";
import type { LaunchInputs, ReadInputs } from "./inputs.ts";
import { findServedKeys, keyEvent, type ServedKey, type TokenIdentity, tokenEvent } from "./keys.ts";
import type { MeasurementLog } from "./measurement-log.ts";
import { type LaunchState, mayFollow } from "./state.ts";

/** What the launch needs from outside; everything privileged is behind one of these. */
export interface LaunchEnvironment {
  readonly config: AgentConfig;
  readonly configBytes: Uint8Array;
  readonly tpm: Tpm;
  readonly log: MeasurementLog;
  readonly spawner: Spawner;
  readonly inputs: ReadInputs;
  readonly devices: readonly string[];
  openShim(requestFd: number): Promise<Shim>;
  closeFd(fd: number): void;
  /** Where a file of the root really lies: the spawner copies regular files only, the loader asks for links. */
  realPath(path: string): string;
}

/** What is known about the launch, for the report: filled as far as the launch came. */
export interface LaunchRecord {
  state: LaunchState;
  probe: readonly ProbeAttempt[];
  /** System call to count: what the kernel showed the agent while the probe ran. */
  witnessed: Readonly<Record<number, number>>;
  token?: TokenIdentity;
  keys: readonly ServedKey[];
  digests: ReadonlyMap<string, string>;
  mapped: readonly string[];
  answers: readonly TpmAnswer[];
}

export interface Launched {
  readonly shim: Shim;
  readonly keys: readonly ServedKey[];
}

const SHIM_ID = 0;
/** agent.json, anchors, policy: measured before anything in them is acted on. */
const DOCUMENT_EVENTS = 3;

/** Thrown inside the launch when it has to end refused; carries every reason found so far. */
class Refusal extends Error {
  readonly reasons: readonly Reason[];
  constructor(reasons: readonly Reason[]) {
    super("launch refused");
    this.reasons = reasons;
  }
}

/**
 * Measure, unseal, log in, check the keys, cap. Returns the shim when serving may begin, `null` when the launch was
 * refused; `record` says why. In both cases the agent PCR is capped when this returns. When even the cap fails the
 * spawner is asked to cap and reboot, and this rejects.
 */
export async function launch(environment: LaunchEnvironment, record: LaunchRecord): Promise<Launched | null> {
  let requestFd: number | undefined;
  try {
    enter(record, { kind: "measuring" });
    const inputs = await measureEverything(environment, record);
    enter(record, { kind: "unsealing" });
    const { fds } = await environment.spawner.startShim(startRequest(inputs));
    requestFd = fds.request;
    const shim = await environment.openShim(fds.request);
    await unsealInto(environment, inputs, shim, record, fds.pin);
    const keys = await checkKeys(environment, inputs, shim, record);
    enter(record, { kind: "capping" });
    const serving: LaunchState = { kind: "serving", scopes: inputs.policy.scopes.map((scope) => scope.name) };
    await environment.log.measure(cap("serving"), () => enter(record, serving));
    return { shim, keys };
  } catch (error) {
    const reasons = error instanceof Refusal ? error.reasons : [reasonFrom(error, `launch (${record.state.kind})`)];
    await refuse(environment, record, reasons, requestFd);
    return null;
  }
}

/** The last event of a launch: after it no signed release's PCR values can be reached in this boot. */
function cap(outcome: "serving" | "refused"): LaunchEvent {
  return { kind: "cap", name: outcome, sha256: sha256(new Uint8Array()) };
}

function enter(record: LaunchRecord, state: LaunchState): void {
  if (!mayFollow(record.state.kind, state.kind)) {
    throw new AgentError("ERR_LAUNCH", "launch state", {
      expected: `a state after ${record.state.kind}`,
      got: state.kind,
    });
  }
  record.state = state;
}

/** Close the agent PCR for this boot, then say why. A cap that fails leaves the sealed PIN within reach: reboot (I3). */
async function refuse(
  environment: LaunchEnvironment,
  record: LaunchRecord,
  reasons: readonly Reason[],
  requestFd?: number,
): Promise<void> {
  try {
    await environment.log.measure(cap("refused"), () => {
      record.state = { kind: "refused", reasons, answers: record.answers };
    });
  } catch (error) {
    await environment.spawner.capAndReboot("the cap of a refused launch failed");
    throw error;
  }
  if (requestFd !== undefined) environment.closeFd(requestFd);
}

// ---- measuring -------------------------------------------------------------------------------------------------

async function measureEverything(environment: LaunchEnvironment, record: LaunchRecord): Promise<LaunchInputs> {
  const { inputs } = environment;
  const reasons: Reason[] = [...(await agentPcrReasons(environment)), ...inputs.reasons];
  const documents = await measureDocuments(environment);
  const files = isComplete(inputs.partial) ? await measureShim(environment, inputs.partial, record, reasons) : [];
  const events = [...documents, ...files];
  await compareWithRelease(environment, events, reasons);
  if (reasons.length > 0 || !isComplete(inputs.partial)) {
    await askTpmAnyway(environment, record, reasons);
    throw new Refusal(reasons);
  }
  return inputs.partial;
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

/** Name what differs from the release: each agent event by itself, then the boot PCRs. The TPM decides, this explains. */
async function compareWithRelease(
  environment: LaunchEnvironment,
  events: readonly LaunchEvent[],
  reasons: Reason[],
): Promise<void> {
  const { release } = environment.inputs.partial;
  if (release === undefined) return;
  release.events.forEach((expected, index) => {
    const event = events[index];
    const got =
      event === undefined
        ? "nothing"
        : event.name === expected.name
          ? toHex(event.sha256)
          : `${event.kind} ${event.name}`;
    if (got !== expected.sha256) {
      reasons.push(reason("measurement-changed", `${expected.kind} ${expected.name}`, expected.sha256, got));
    }
  });
  for (const extra of events.slice(release.events.length)) {
    reasons.push(reason("measurement-changed", `${extra.kind} ${extra.name}`, "nothing", toHex(extra.sha256)));
  }
  const boot = await environment.tpm.pcrRead("sha256", SEAL_PCRS);
  for (const index of SEAL_PCRS) {
    const expected = release.pcrs.sha256[String(index)] ?? "a predicted value";
    const got = toHex(boot.get(index) ?? new Uint8Array());
    if (expected !== got) reasons.push(reason("pcr-changed", `PCR ${index} (sha256)`, expected, got));
  }
}

// ---- unsealing -------------------------------------------------------------------------------------------------

/** After a mismatch the TPM is asked all the same: it refuses, not a comparison in this code. Its data are discarded. */
async function askTpmAnyway(environment: LaunchEnvironment, record: LaunchRecord, reasons: Reason[]): Promise<void> {
  const { sealed, release, anchors } = environment.inputs.partial;
  if (!sealed || !release || !anchors) return;
  const nowhere = await open("/dev/null", "w");
  const answer = await runUnsealer({
    path: `${environment.config.programs}/unsealer`,
    tcti: environment.config.tcti,
    request: unsealRequest(sealed, release, anchors),
    sinks: [nowhere.fd],
    discard: true,
  });
  await nowhere.close();
  record.answers = answersOf(answer);
  if (answer.kind === "discarded")
    reasons.push(reason("tpm-would-release", "TPM2_Unseal", "a refusal by the TPM", "data, discarded"));
}

function answersOf(answer: UnsealAnswer): readonly TpmAnswer[] {
  if (answer.kind === "refused") return answer.answers;
  return answer.kind === "failed" ? [{ command: answer.command, rc: answer.rc, text: answer.text }] : [];
}

async function unsealInto(
  environment: LaunchEnvironment,
  inputs: LaunchInputs,
  shim: Shim,
  record: LaunchRecord,
  pinFd: number,
): Promise<void> {
  await probeSandbox(shim, record);
  const loaded = await shim.load(inputs.policy.module.path);
  record.mapped = loaded.objects;
  const slot = findToken(inputs, loaded.slots);
  const answer = await runUnsealer({
    path: `${environment.config.programs}/unsealer`,
    tcti: environment.config.tcti,
    request: unsealRequest(inputs.sealed, inputs.release, inputs.anchors),
    sinks: [pinFd],
  });
  environment.closeFd(pinFd);
  record.answers = answersOf(answer);
  if (answer.kind !== "released") {
    const got = record.answers.map((entry) => `${entry.command} ${entry.rc}`).join(", ") || answer.kind;
    throw new Refusal([reason("tpm-refused", "TPM2_Unseal", "the sealed PIN", got)]);
  }
  enter(record, { kind: "logging-in" });
  await shim.login(slot.slotId);
  const { label, serial, model, manufacturer, firmware } = slot;
  const token: TokenIdentity = { label, serial, model, manufacturer, firmware };
  await environment.log.measure(tokenEvent(token), () => {
    record.token = token;
  });
}

/** The escape probe, before any code of the library runs in the shim. */
async function probeSandbox(shim: Shim, record: LaunchRecord): Promise<void> {
  record.probe = await shim.probe();
  record.witnessed = shim.attempts();
  const escaped = record.probe.filter((attempt) => attempt.errno === 0);
  const unseen = Object.values(record.witnessed).reduce((sum, count) => sum + count, 0) === 0;
  const reasons = escaped.map((attempt) => reason("sandbox-escape", attempt.name, "denied", "it succeeded"));
  if (unseen) reasons.push(reason("probe-unseen", "escape probe", "attempts that the kernel shows", "none"));
  if (reasons.length > 0) throw new Refusal(reasons);
}

/** The token that policy and sealed package name: a PIN is never tried on another one. */
function findToken(inputs: LaunchInputs, slots: readonly ShimSlot[]): ShimSlot {
  const { label, serial } = inputs.policy.token;
  const slot = slots.find((candidate) => candidate.serial === serial && candidate.label === label);
  if (slot !== undefined && inputs.sealed.tokenSerial === serial) return slot;
  const found = slots.map((candidate) => `${candidate.label}/${candidate.serial}`).join(", ") || "no token";
  throw new Refusal([
    reason("hsm-absent", "token", `${label}/${serial}`, `${found}; PIN sealed for ${inputs.sealed.tokenSerial}`),
  ]);
}

// ---- keys ------------------------------------------------------------------------------------------------------

async function checkKeys(
  environment: LaunchEnvironment,
  inputs: LaunchInputs,
  shim: Shim,
  record: LaunchRecord,
): Promise<readonly ServedKey[]> {
  enter(record, { kind: "checking-keys" });
  const { keys, reasons } = findServedKeys(inputs.policy, await shim.keys());
  if (reasons.length > 0) throw new Refusal(reasons);
  for (const key of keys) {
    await proveKeyPair(shim, key);
    await environment.log.measure(keyEvent(key), () => {
      record.keys = [...record.keys, key];
    });
  }
  await shim.arm();
  return keys;
}

/** One real operation: the private key in the token belongs to the public key that the policy names. */
async function proveKeyPair(shim: Shim, key: ServedKey): Promise<void> {
  const message = randomBytes(32);
  const publicKey = createPublicKey({ key: Buffer.from(key.spki), format: "der", type: "spki" });
  const isEc = publicKey.asymmetricKeyType === "ec";
  const signature = await shim.sign({
    handle: key.handle,
    mechanism: mechanismRow(isEc ? "CKM_ECDSA" : "CKM_SHA256_RSA_PKCS").value,
    pss: null,
    data: isEc ? sha256(message) : message,
  });
  const verified = verify(
    "sha256",
    message,
    isEc ? { key: publicKey, dsaEncoding: "ieee-p1363" } : publicKey,
    signature,
  );
  if (!verified)
    throw new Refusal([reason("key-mismatch", key.name, "a signature of the named public key", "another signature")]);
}

/** The spawner compares this digest with the profile that it copied itself. */
function startRequest(inputs: LaunchInputs) {
  const { module, profile, writable } = inputs.policy;
  return {
    id: SHIM_ID,
    profileSha256: fromHex(profile.sha256),
    environment: Object.entries(module.environment).map(([name, value]) => `${name}=${value}`),
    writable,
  };
}
