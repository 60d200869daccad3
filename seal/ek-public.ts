import type { KeyObject } from "node:crypto";
import {
  AttestError,
  defaultEkProfile,
  type EkKey,
  type EkProfile,
  ekCertificateKey,
  ekKeyOf,
  ekProfiles,
  ekPublic,
  encodeTpmPublic,
  tpmAlg,
  tpmName,
} from "../attest/index.ts";
import { SealError } from "./errors.ts";

/** An endorsement key rebuilt from its certificate: what TPM2_ReadPublic would return, without a TPM. */
export interface EkPublic {
  readonly profile: EkProfile;
  readonly key: KeyObject;
  /** TPMT_PUBLIC, no size in front. */
  readonly tpmtPublic: Uint8Array;
  /** nameAlg || H(TPMT_PUBLIC). */
  readonly name: Uint8Array;
}

/** Credentials are sealed to these alone, so that a Name's algorithm tells which: the package and the unsealer rely on it. */
const sealingProfiles: readonly EkProfile[] = [ekProfiles.rsa2048, ekProfiles.p384];

/** The profile whose Name algorithm and size this is among those that something is sealed to, or null. */
export function ekProfileOfName(name: Uint8Array): EkProfile | null {
  const nameAlg = ((name[0] ?? 0) << 8) | (name[1] ?? 0);
  return sealingProfiles.find(({ hash, hashSize }) => nameAlg === tpmAlg[hash] && name.length === 2 + hashSize) ?? null;
}

/**
 * Rebuilds the EK's public area from the certificate's key and the standard template.
 * Does not verify the certificate: chain, roots and purpose must be verified first, see `attest`.
 *
 * @throws SealError ERR_SEAL_EK when the bytes are no certificate or the key is neither RSA-2048 nor P-384
 */
export function openEkCertificate(der: Uint8Array): EkPublic {
  const key = readKey(der);
  const ekKey = readEkKey(key);
  const profile = defaultEkProfile(ekKey);
  if (!sealingProfiles.includes(profile)) throw unusable("ECC P-256", SEAL_TO_ANOTHER);
  const tpmtPublic = encodeTpmPublic(ekPublic(profile, ekKey));
  return { profile, key, tpmtPublic, name: tpmName(tpmtPublic) };
}

const SEAL_TO_ANOTHER =
  "a machine can be enrolled with its P-256 endorsement key, but nothing is sealed to one: use the certificate of the TPM's RSA-2048 key";

function readKey(der: Uint8Array): KeyObject {
  try {
    return ekCertificateKey(der);
  } catch (cause) {
    throw new SealError("ERR_SEAL_EK", "EK certificate", {
      expected: "an X.509 certificate in DER",
      got: `${der.length} bytes`,
      cause,
    });
  }
}

function readEkKey(key: KeyObject): EkKey {
  try {
    return ekKeyOf(key);
  } catch (cause) {
    throw unusable(cause instanceof AttestError ? (cause.got ?? "another key") : "another key");
  }
}

function unusable(got: string, hint?: string): SealError {
  return new SealError("ERR_SEAL_EK", "EK certificate key", {
    expected: "RSA-2048 with exponent 65537, or ECC P-384",
    got,
    ...(hint === undefined ? {} : { hint }),
  });
}
