import { createPublicKey, randomBytes, verify } from "node:crypto";
import { type Reason, reason } from "../../attest/index.ts";
import {
  firstModule,
  mechanismRow,
  type PolicyModule,
  type PolicyToken,
  sha256,
  sortedTokens,
} from "../../policy/index.ts";
import { type LoginOutcome, packageDigest, readLogin, type SealedPackage, writeLogin } from "../../seal/index.ts";
import { AgentError } from "../errors.ts";
import type { Shim } from "../shim-client.ts";
import { type ShimSlot, TOKEN_FLAG } from "../shim-replies.ts";
import { enter, type LaunchEnvironment, type LaunchRecord, Refusal } from "./environment.ts";
import type { LaunchInputs } from "./inputs.ts";
import { findServedKeys, keyEvent, type ServedKey, type TokenIdentity, type TokenKeys, tokenEvent } from "./keys.ts";
import type { MeasuredInputs } from "./measure.ts";
import { STATE_CREDENTIAL } from "./tpm-check.ts";
import { tpmStep, unsealCredential } from "./unseal.ts";

/** A token of the policy, and the slot that presents it. */
export interface TokenSlot extends PolicyToken {
  readonly name: string;
  readonly slot: ShimSlot;
}

/**
 * Probe the sandbox, deliver the library's files, load it, find every token that a PIN is for, open the state volume, and have the
 * TPM send the PINs into the shim's channel. All of them, before the first log-in: a `token` event moves the agent PCR, and
 * from then on the TPM releases nothing.
 * @param channel its write end; stays the caller's
 * @throws Refusal, or AgentError for a shim that fails
 */
export async function unsealInto(
  environment: LaunchEnvironment,
  inputs: MeasuredInputs,
  shim: Shim,
  record: LaunchRecord,
  channel: number,
): Promise<readonly TokenSlot[]> {
  const { policy, release, anchors } = inputs;
  const deliver = (name: string, sink: number) =>
    unsealCredential(environment, record, { credential: needed(inputs, name), release, anchors }, sink);
  const module = firstModule(policy);
  await probeSandbox(shim, record);
  for (const [path, name] of Object.entries(module.files).sort(([a], [b]) => (a < b ? -1 : 1))) {
    await deliver(name, channel);
    await shim.credential(path);
  }
  const loaded = await shim.load(module.path);
  record.mapped = loaded.objects;
  checkMapped(module, loaded.objects);
  const slots = findTokens(inputs, loaded.slots);
  await environment.stateVolume?.open((sink) => deliver(STATE_CREDENTIAL, sink));
  for (const { pin } of slots) await deliver(pin, channel);
  return slots;
}

function needed({ credentials }: LaunchInputs, name: string) {
  const credential = credentials.get(name);
  if (credential !== undefined) return credential;
  throw new Refusal([reason("credential-missing", name, "a sealed package in the cabinet", "none")]);
}

/**
 * Log in to each token, once, in the order in which the PINs stand in the channel. A token that refuses ends the launch; those after
 * it are not tried.
 */
export async function logIn(
  environment: LaunchEnvironment,
  inputs: MeasuredInputs,
  shim: Shim,
  record: LaunchRecord,
  slots: readonly TokenSlot[],
): Promise<void> {
  enter(record, { kind: "logging-in" });
  for (const token of slots) await logInTo(environment, inputs, shim, record, token);
}

/**
 * That a PIN is being tried is in the TPM before it is: one whose try ended badly, or was cut off by a power failure, is not tried
 * again before an operator acts (I11).
 */
async function logInTo(
  environment: LaunchEnvironment,
  inputs: MeasuredInputs,
  shim: Shim,
  record: LaunchRecord,
  { name, pin, slot }: TokenSlot,
): Promise<void> {
  const { sealed } = needed(inputs, pin);
  const note = await beginLogin(environment, sealed);
  try {
    await shim.login(slot.slotId);
  } catch (error) {
    // Only the token's own word counts as its answer; anything else leaves the try as one whose end is not known.
    if (!(error instanceof AgentError) || error.rv === undefined || !PIN_REFUSED.has(error.rv)) throw error;
    await note("refused");
    throw new Refusal([reason("pin-refused", name, "0x0", `0x${error.rv.toString(16)}`)]);
  }
  await note("accepted");
  const { label, serial, model, manufacturer, firmware } = slot;
  const token: TokenIdentity = { name, label, serial, model, manufacturer, firmware };
  await environment.log.measure(tokenEvent(token), () => {
    record.tokens = [...record.tokens, token];
  });
}

/** Writes down that this package is being tried. Returns how to write down the end. */
async function beginLogin({ tss }: LaunchEnvironment, sealed: SealedPackage) {
  const { name, generation } = sealed;
  const known = await tpmStep("login record", () => readLogin(tss, name));
  const tries = known.kind === "record" ? known.record.tries : 0n;
  const tried = { name, generation, tries: tries + 1n, package: packageDigest(sealed) };
  const note = (outcome: LoginOutcome) => tpmStep("login record", () => writeLogin(tss, { ...tried, outcome }));
  await note("trying");
  return note;
}

/** CKR_PIN_INCORRECT, CKR_PIN_INVALID, CKR_PIN_LEN_RANGE, CKR_PIN_EXPIRED, CKR_PIN_LOCKED. */
const PIN_REFUSED: ReadonlySet<bigint> = new Set([0xa0n, 0xa1n, 0xa2n, 0xa3n, 0xa4n]);

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
function checkMapped(module: PolicyModule, objects: readonly string[]): void {
  const foreign = objects.filter(
    (path) => path !== module.path && path !== KERNEL_OBJECT && !Object.hasOwn(module.closure, path),
  );
  if (foreign.length > 0)
    throw new Refusal(foreign.map((path) => reason("unpinned-object", path, "a pinned path", "mapped")));
}

/** The tokens that policy and sealed packages name: a PIN is never tried on another one, nor on one that would lock. */
function findTokens(inputs: LaunchInputs, slots: readonly ShimSlot[]): readonly TokenSlot[] {
  const found: TokenSlot[] = [];
  const reasons: Reason[] = [];
  for (const token of sortedTokens(inputs.policy)) {
    const slot = slots.find(({ label, serial }) => label === token.label && serial === token.serial);
    const { tokenSerial } = needed(inputs, token.pin).sealed;
    if (slot === undefined || tokenSerial !== token.serial) reasons.push(absent(token, slots, tokenSerial));
    else {
      reasons.push(...lockReasons(token.name, slot));
      found.push({ ...token, slot });
    }
  }
  if (reasons.length > 0) throw new Refusal(reasons);
  return found;
}

function absent(
  { name, label, serial }: Omit<TokenSlot, "slot">,
  slots: readonly ShimSlot[],
  tokenSerial: string | null,
): Reason {
  const seen = slots.map((slot) => `${slot.label}/${slot.serial}`).join(", ") || "no token";
  return reason("hsm-absent", name, `${label}/${serial}`, `${seen}; PIN sealed for ${tokenSerial ?? "no token"}`);
}

function lockReasons(token: string, { flags }: ShimSlot): readonly Reason[] {
  if ((flags & TOKEN_FLAG.userPinLocked) !== 0)
    return [reason("hsm-locked", token, "a token that takes a PIN", "CKF_USER_PIN_LOCKED")];
  if ((flags & TOKEN_FLAG.userPinFinalTry) !== 0)
    return [reason("hsm-final-try", token, "more than one try before it locks", "CKF_USER_PIN_FINAL_TRY")];
  return [];
}

/** Match the tokens' keys with the policy's, use each once, measure each, then forbid the shim new code. */
export async function checkKeys(
  environment: LaunchEnvironment,
  inputs: LaunchInputs,
  shim: Shim,
  record: LaunchRecord,
  slots: readonly TokenSlot[],
): Promise<readonly ServedKey[]> {
  enter(record, { kind: "checking-keys" });
  const held = new Map<string, TokenKeys>();
  for (const { name, slot } of slots) held.set(name, { slotId: slot.slotId, keys: await shim.keys(slot.slotId) });
  const { keys, reasons } = findServedKeys(inputs.policy, held);
  if (reasons.length > 0) throw new Refusal(reasons);
  for (const key of keys) {
    await proveKeyPair(shim, key);
    await environment.log.measure(keyEvent(key), () => {
      record.keys = [...record.keys, key];
    });
  }
  await shim.uses(keys.map(({ slotId, handle, does }) => ({ slotId, handle, use: does })));
  await shim.arm();
  return keys;
}

/** One real operation: the private key in the token belongs to the public key that the policy names. */
async function proveKeyPair(shim: Shim, key: ServedKey): Promise<void> {
  const message = randomBytes(32);
  const publicKey = createPublicKey({ key: Buffer.from(key.spki), format: "der", type: "spki" });
  const isEc = publicKey.asymmetricKeyType === "ec";
  const signature = await shim.sign({
    slotId: key.slotId,
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
