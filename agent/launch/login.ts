import { createPublicKey, randomBytes, verify } from "node:crypto";
import { reason } from "../../attest/index.ts";
import { mechanismRow, type Policy, sha256 } from "../../policy/index.ts";
import { runUnsealer, unsealRequest } from "../../seal/index.ts";
import type { Shim } from "../shim-client.ts";
import type { ShimSlot } from "../shim-replies.ts";
import { answersOf, enter, type LaunchEnvironment, type LaunchRecord, Refusal } from "./environment.ts";
import type { LaunchInputs } from "./inputs.ts";
import { findServedKeys, keyEvent, type ServedKey, type TokenIdentity, tokenEvent } from "./keys.ts";

/**
 * Probe the sandbox, load the library, find the one token the PIN is for, and have the TPM send it into the shim's pipe.
 * @param pinFd the pipe's write end; stays the caller's
 * @throws Refusal, or AgentError for a shim that fails
 */
export async function unsealInto(
  environment: LaunchEnvironment,
  inputs: LaunchInputs,
  shim: Shim,
  record: LaunchRecord,
  pinFd: number,
): Promise<ShimSlot> {
  await probeSandbox(shim, record);
  const loaded = await shim.load(inputs.policy.module.path);
  record.mapped = loaded.objects;
  checkMapped(inputs.policy, loaded.objects);
  const slot = findToken(inputs, loaded.slots);
  const answer = await runUnsealer({
    path: `${environment.config.programs}/unsealer`,
    tcti: environment.config.tcti,
    request: unsealRequest(inputs.sealed, inputs.release, inputs.anchors),
    sinks: [pinFd],
  });
  record.answers = answersOf(answer);
  if (answer.kind !== "released") {
    const got = record.answers.map((entry) => `${entry.command} ${entry.rc}`).join(", ") || answer.kind;
    throw new Refusal([reason("tpm-refused", "TPM2_Unseal", "the sealed PIN", got)]);
  }
  return slot;
}

/** Log in, once: a wrong PIN is not tried again. */
export async function logIn(
  environment: LaunchEnvironment,
  shim: Shim,
  record: LaunchRecord,
  slot: ShimSlot,
): Promise<void> {
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

/** The kernel maps this into every process; it is no file. */
const KERNEL_OBJECT = "linux-vdso.so.1";

/**
 * What the loader mapped lies inside the pin. The private root makes sure of it; this catches a mistake in the pin, not a
 * hostile library, whose process says it.
 */
function checkMapped({ module }: Policy, objects: readonly string[]): void {
  const foreign = objects.filter(
    (path) => path !== module.path && path !== KERNEL_OBJECT && !Object.hasOwn(module.closure, path),
  );
  if (foreign.length > 0)
    throw new Refusal(foreign.map((path) => reason("unpinned-object", path, "a pinned path", "mapped")));
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

/** Match the token's keys with the policy's, use each once, measure each, then forbid the shim new code. */
export async function checkKeys(
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
