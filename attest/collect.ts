import { type CelRecord, encodeCel } from "./cel.ts";
import type { Claims } from "./claims.ts";
import { encodeClaims } from "./claims-codec.ts";
import { type Challenge, type Evidence, encodeEkCertificates, encodePcrs, measureExtraData } from "./evidence.ts";
import type { AttestationKey, Tpm } from "./tpm.ts";

/** What a report is made of, besides the TPM's own words. */
export interface EvidenceSources {
  /** DER, the EK's first; empty when the TPM has none. */
  readonly ekCertificates: readonly Uint8Array[];
  /** Bytes of `binary_bios_measurements`, untouched. */
  readonly firmwareLog: Uint8Array;
  /** Runs `act` while nothing is extended into the agent PCR, with the log as it stands. */
  locked<T>(act: (records: readonly CelRecord[]) => Promise<T>): Promise<T>;
  /** The claims of this moment, made under the lock so that they agree with the log (see `measuredClaims`). */
  claims(nonce: Uint8Array, records: readonly CelRecord[]): Claims | Promise<Claims>;
}

/**
 * Answer a challenge. Claims, log, PCR values and quote are taken under one lock, so a report does not disagree with
 * itself. Does not check the challenge: an attester answers anybody, freshness is the verifier's business.
 *
 * @throws AttestError `ERR_TPM` when the TPM refuses
 */
export function collectEvidence(
  tpm: Pick<Tpm, "pcrRead" | "quote">,
  ak: AttestationKey,
  sources: EvidenceSources,
  challenge: Challenge,
): Promise<Evidence> {
  const { bank, nonce, pcrs } = challenge;
  return sources.locked(async (records) => {
    const bound = {
      ak: ak.publicArea,
      claims: encodeClaims(await sources.claims(nonce, records)),
      agentLog: encodeCel(records),
      firmwareLog: sources.firmwareLog,
      ekCertificates: encodeEkCertificates(sources.ekCertificates),
    };
    const values = await tpm.pcrRead(bank, pcrs);
    const { attest, signature } = await tpm.quote(ak, measureExtraData(nonce, bound), bank, pcrs);
    return { ...bound, pcrs: encodePcrs({ bank, values }), quote: attest, signature };
  });
}
