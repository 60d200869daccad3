import { TpmError, type TpmObject, type Tpm as Tss } from "node-tpm2-tss";
import { ByteWriter, equalBytes, NV_WRITTEN, sha256, toHex } from "../policy/index.ts";
import { SealError } from "./errors.ts";
import { withNvIndex } from "./nv-index.ts";

// What is frozen on this machine, where neither a disk that is put back nor a reboot undoes it: FORMATS.md, section 7.

export const FREEZE_INDEX = 0x0180_0023;
/** TPM_NT_BITS, AUTHWRITE, AUTHREAD, NO_DA: whoever reaches the TPM may set a bit; a TPM in lockout reads and sets them too. */
export const FREEZE_ATTRIBUTES = 0x0204_0024;
/** Bit 0: everything. Bits 1 to 63: the scopes to which the policy gives them. */
export const EVERYTHING = 1n;

const SIZE = 8;
const ALG_SHA256 = 0x000b;
/** TPM_RC_BAD_AUTH of the first session. */
const BAD_AUTH = 0x9a2;

/**
 * What a TPM has at the index of the freeze bits. Only `bits` says what is frozen; with anything else nothing is known about it, which
 * is not the same as nothing being frozen.
 */
export type FreezeState =
  | { readonly kind: "missing" }
  /** Defined, and nothing was ever set: whoever made it was cut off. */
  | { readonly kind: "unwritten" }
  /** Another index: its Name, in hexadecimal, or what else tells it apart. */
  | { readonly kind: "foreign"; readonly got: string }
  | { readonly kind: "bits"; readonly bits: bigint };

/** Name of the index, 34 bytes: the same on every TPM. Its last command made it the written one, unless that was its definition. */
export function measureFreezeName({ written = true } = {}): Uint8Array {
  const area = new ByteWriter()
    .u32(FREEZE_INDEX)
    .u16(ALG_SHA256)
    .u32(written ? FREEZE_ATTRIBUTES | NV_WRITTEN : FREEZE_ATTRIBUTES)
    .sized16(new Uint8Array())
    .u16(SIZE)
    .finish();
  return new ByteWriter().u16(ALG_SHA256).bytes(sha256(area)).finish();
}

export function readFreeze(tss: Tss): Promise<FreezeState> {
  return withNvIndex(tss, FREEZE_INDEX, (index) => (index === null ? MISSING : stateOf(tss, index)));
}

const MISSING: Promise<FreezeState> = Promise.resolve({ kind: "missing" });

/** Another index is not read: it may want an authValue, and a wrong one counts for the dictionary-attack lockout. */
async function stateOf(tss: Tss, index: TpmObject): Promise<FreezeState> {
  const { name } = await tss.nvReadPublic(index);
  if (equalBytes(name, measureFreezeName({ written: false }))) return { kind: "unwritten" };
  if (!equalBytes(name, measureFreezeName())) return { kind: "foreign", got: toHex(name) };
  try {
    const bytes = await tss.nvRead(index, { size: SIZE });
    return { kind: "bits", bits: new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).getBigUint64(0) };
  } catch (error) {
    // An authValue is no part of the Name: ours may have been replaced by an index with one.
    if (error instanceof TpmError && error.rc === BAD_AUTH) return { kind: "foreign", got: "an authorisation" };
    throw error;
  }
}

/**
 * Sets these bits; none is ever cleared by it. Resolves with all that are set then.
 * @throws SealError ERR_SEAL_RECORD where the TPM has no freeze bits of ours; TpmError
 */
export function setFreeze(tss: Tss, bits: bigint): Promise<bigint> {
  return withNvIndex(tss, FREEZE_INDEX, async (index) => {
    const state = index === null ? await MISSING : await stateOf(tss, index);
    if (index === null || state.kind !== "bits") throw absent(state.kind);
    await tss.nvSetBits(index, bits);
    return state.bits | bits;
  });
}

/**
 * Defines the index, with no bit set, if the TPM has none. Can be called again after a crash at any step; what is set stays set.
 * @throws SealError ERR_SEAL_RECORD when another index is in its place; TpmError
 */
export function provisionFreeze(tss: Tss): Promise<void> {
  return withNvIndex(tss, FREEZE_INDEX, async (present) => {
    const state = present === null ? await MISSING : await stateOf(tss, present);
    if (state.kind === "bits") return;
    if (state.kind === "foreign") throw absent("another index");
    await define(tss, present, 0n);
  });
}

/** The owner's authorisation, and the endorsement key to which the session that proves it is salted: its Name was compared. */
export interface OwnerAuth {
  readonly auth: Uint8Array;
  readonly saltKey: TpmObject;
}

/**
 * Takes the index away and makes it again with `keep`: the only way in which a bit is cleared. A crash leaves it missing or unwritten,
 * under which no launch serves; it is mended by calling this again, with what was to be kept.
 *
 * @param owner null on a TPM that has no owner
 * @throws TpmError, e.g. for an authorisation that is not the owner's
 */
export async function replaceFreeze(tss: Tss, keep: bigint, owner: OwnerAuth | null): Promise<void> {
  if (owner === null) return replace(tss, keep, []);
  await using session = await tss.startAuthSession({ kind: "hmac", saltKey: owner.saltKey });
  await tss.setAuth("owner", owner.auth);
  try {
    await replace(tss, keep, [session]);
  } finally {
    await tss.setAuth("owner", new Uint8Array());
  }
}

type Sessions = NonNullable<NonNullable<Parameters<Tss["nvDefineSpace"]>[1]>["sessions"]>;

async function replace(tss: Tss, keep: bigint, sessions: Sessions): Promise<void> {
  const options = sessions.length === 0 ? {} : { sessions };
  await withNvIndex(tss, FREEZE_INDEX, async (present) => {
    if (present !== null) await tss.nvUndefineSpace(present, options);
  });
  await define(tss, null, keep, options);
}

/** One command gives it its bits, so it is never there with fewer: until then it is unwritten. */
async function define(
  tss: Tss,
  present: TpmObject | null,
  bits: bigint,
  options: { readonly sessions?: Sessions } = {},
): Promise<void> {
  const definition = { index: FREEZE_INDEX, attributes: FREEZE_ATTRIBUTES, dataSize: SIZE };
  await using index = present ?? (await tss.nvDefineSpace(definition, options));
  await tss.nvSetBits(index, bits);
}

/** 16 hexadecimal digits. */
export function freezeHex(bits: bigint): string {
  return bits.toString(16).padStart(16, "0");
}

function absent(got: string): SealError {
  return new SealError("ERR_SEAL_RECORD", `NV index 0x${FREEZE_INDEX.toString(16)}`, {
    expected: "the freeze bits of this machine",
    got,
    hint: "have them made again with `ironclaw order unfreeze --all`, after finding out who took them away",
  });
}
