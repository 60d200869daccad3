// What the tests of the binding share: a software TPM for each file, templates, and the numbers of the specification.
import { createHash, generateKeyPairSync, sign as signData } from "node:crypto";
import { join } from "node:path";
import { HANDLE_RANGE, type HashName, Tpm, TpmError } from "node-tpm2-tss";
import { afterAll, beforeAll } from "vitest";
import { concatBytes, fromHex } from "../../../policy/index.ts";
import { type SoftwareTpm, type SoftwareTpmOptions, startSwtpm } from "../../support/swtpm.ts";

export const root = join(import.meta.dirname, "..", "..", "..");
export const nativeDirectory = join(root, "build", "native");
export const openAt = (swtpm: SoftwareTpm) => Tpm.open({ tcti: swtpm.tcti, nativeDirectory });

/** A software TPM for all tests of a file; each opens a connection of its own. */
export function fileTpm(options: SoftwareTpmOptions = { endorsement: "none" }): () => Promise<Tpm> {
  const started: { swtpm?: SoftwareTpm } = {};
  beforeAll(async () => {
    started.swtpm = await startSwtpm(options);
  });
  afterAll(() => started.swtpm?.stop());
  return () => {
    if (started.swtpm === undefined) throw new Error("the software TPM is not started");
    return openAt(started.swtpm);
  };
}

export const hash = (name: HashName, ...parts: Uint8Array[]) =>
  new Uint8Array(
    createHash(name)
      .update(concatBytes(...parts))
      .digest(),
  );
export const u8 = (value: number) => Uint8Array.of(value);
export const u16 = (value: number) => Uint8Array.of(value >> 8, value & 0xff);
export const u32 = (value: number) => concatBytes(u16(value >>> 16), u16(value & 0xffff));
export const sized = (bytes: Uint8Array) => concatBytes(u16(bytes.length), bytes);
export const text = (value: string) => new Uint8Array(new TextEncoder().encode(value));
export const base64url = (bytes: Uint8Array) => Buffer.from(bytes).toString("base64url");
export const nothing = new Uint8Array(0);

/** The TpmError that `command` ends in. */
export async function failure(command: Promise<unknown>): Promise<TpmError> {
  const error = await command.then(
    () => new Error("the command succeeded"),
    (cause: unknown) => cause,
  );
  if (!(error instanceof TpmError)) throw error;
  return error;
}

/** Layer, command and code of that error, e.g. `tpm PolicyNV 0x126`. */
export async function refusal(command: Promise<unknown>): Promise<string> {
  const { layer, command: name, rc } = await failure(command);
  return `${layer} ${name} 0x${rc.toString(16)}`;
}

/** Transient objects and sessions in the TPM. */
export async function inTpm(tpm: Tpm): Promise<readonly number[]> {
  const ranges = [HANDLE_RANGE.transient, HANDLE_RANGE.loadedSession, HANDLE_RANGE.savedSession];
  const handles: number[] = [];
  for (const range of ranges) handles.push(...(await tpm.handles(range)));
  return handles;
}

/** TPM_CC, as policies hash them. */
export const CC = {
  clear: 0x126,
  nvIncrement: 0x134,
  nvWrite: 0x137,
  policyNv: 0x149,
  duplicate: 0x14b,
  objectChangeAuth: 0x150,
  policySecret: 0x151,
  unseal: 0x15e,
  policyAuthorize: 0x16a,
  policyAuthValue: 0x16b,
  policyCommandCode: 0x16c,
  policyCpHash: 0x16e,
  policyNameHash: 0x170,
  policyOr: 0x171,
  policyPcr: 0x17f,
  policyNvWritten: 0x18f,
} as const;

/** TPMA_NV. */
export const NV = {
  ownerWrite: 0x2,
  authWrite: 0x4,
  counter: 0x10,
  bits: 0x20,
  extend: 0x40,
  ownerRead: 0x20000,
  authRead: 0x40000,
  noDa: 0x2000000,
  written: 0x20000000,
} as const;
export const readWrite = NV.ownerWrite | NV.authWrite | NV.ownerRead | NV.authRead | NV.noDa;

/** A P-256 storage key: fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, restricted, decrypt. */
export const storageTemplate = fromHex("0023000b0003007200000006008000430010000300100000" + "0000");
/** A P-256 signing key that signs any digest, with ECDSA and SHA-256. */
export const signingTemplate = fromHex("0023000b00040472000000100018000b0003001000000000");

/** Sealed data. Attributes: fixedTPM and fixedParent unless said otherwise, noDA; userWithAuth when there is no policy. */
export function sealedTemplate(
  policy: Uint8Array = nothing,
  attributes = policy.length > 0 ? 0x412 : 0x452,
): Uint8Array {
  return concatBytes(fromHex("0008000b"), u32(attributes), sized(policy), fromHex("00100000"));
}

/** A fresh P-256 key outside of the TPM: TPMT_PUBLIC and TPMT_SENSITIVE for LoadExternal, its Name, TPMT_SIGNATURE over a message. */
export function softwareKey() {
  const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const { x, y, d } = privateKey.export({ format: "jwk" });
  const bytes = (value: string | undefined) => new Uint8Array(Buffer.from(value ?? "", "base64url"));
  const publicArea = concatBytes(fromHex("0023000b0004004000000010001000030010"), sized(bytes(x)), sized(bytes(y)));
  const sign = (message: Uint8Array) => {
    const raw = new Uint8Array(signData("sha256", message, { key: privateKey, dsaEncoding: "ieee-p1363" }));
    return concatBytes(fromHex("0018000b"), sized(raw.slice(0, 32)), sized(raw.slice(32)));
  };
  return {
    publicArea,
    sensitive: concatBytes(fromHex("002300000000"), sized(bytes(d))),
    name: concatBytes(fromHex("000b"), hash("sha256", publicArea)),
    sign,
  };
}
