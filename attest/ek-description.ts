import { toHex } from "../policy/index.ts";
import { type EkProfileName, ekProfilesOfKey, ekPublic } from "./ek-profiles.ts";
import { ekCertificateKey, ekKeyOf } from "./endorsement.ts";
import { oneLine, parseCertificate } from "./endorsement-chain.ts";
import { AttestError } from "./errors.ts";
import { encodeTpmPublic, tpmName } from "./tpm-structures.ts";
import type { TpmSubject } from "./tpm-subject.ts";

/** What a certificate says of itself, for people. Nothing of it is verified. */
export interface EkDescription {
  readonly subject: string;
  readonly issuer: string;
  readonly serial: string;
  readonly notBefore: string;
  readonly notAfter: string;
  readonly signature: string;
  readonly tpm: TpmSubject;
  readonly purposes: readonly string[];
  readonly authority: boolean;
  /** Extensions for which the certificate would be refused. */
  readonly unsupported: readonly string[];
  /** The templates that such a key can have, the usual one first, and the EK's Name under each; empty for a key that no EK has here. */
  readonly profiles: readonly { readonly profile: EkProfileName; readonly ekName: string }[];
  /** Why there are none; else `null`. */
  readonly keyProblem: string | null;
}

/** Verifies nothing. @throws AttestError `ERR_ENDORSEMENT_MALFORMED` */
export function describeEkCertificate(bytes: Uint8Array): EkDescription {
  const { der, x509, fields } = parseCertificate(bytes);
  return {
    ...{ subject: oneLine(x509.subject), issuer: oneLine(x509.issuer), serial: x509.serialNumber.toLowerCase() },
    ...{ notBefore: isoTime(x509.validFromDate), notAfter: isoTime(x509.validToDate) },
    ...{ signature: fields.signature.name, tpm: fields.tpm, purposes: fields.extendedKeyUsage },
    ...{ authority: fields.authority, unsupported: fields.unsupported },
    ...describeKey(der),
  };
}

function describeKey(der: Uint8Array): Pick<EkDescription, "profiles" | "keyProblem"> {
  try {
    const key = ekKeyOf(ekCertificateKey(der));
    const profiles = ekProfilesOfKey(key).map((profile) => ({
      profile: profile.name,
      ekName: toHex(tpmName(encodeTpmPublic(ekPublic(profile, key)))),
    }));
    return { profiles, keyProblem: null };
  } catch (error) {
    if (!(error instanceof AttestError)) throw error;
    return { profiles: [], keyProblem: error.message };
  }
}

function isoTime(date: Date): string {
  return Number.isNaN(date.getTime()) ? "none" : date.toISOString().replace(".000Z", "Z");
}
