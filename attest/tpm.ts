import type { PcrBank } from "./banks.ts";
import type { EndorsementKeyKind } from "./ek-profiles.ts";

/** ECDSA on P-256, or RSASSA with 2048 bits; both with SHA-256. */
export type AttestationKeyKind = "p256" | "rsa2048";

/** The attestation key while this connection lives: restricted, signing, in the endorsement hierarchy. */
export interface AttestationKey extends AsyncDisposable {
  /** TPMT_PUBLIC. */
  readonly publicArea: Uint8Array;
  /** nameAlg SHA-256, then the digest of `publicArea`: 34 bytes. */
  readonly name: Uint8Array;
  /** Means something to the `Tpm` that made it only. */
  readonly handle: number;
}

export interface EndorsementKeyPublic {
  /** TPMT_PUBLIC. */
  readonly publicArea: Uint8Array;
  /** nameAlg (SHA-384 for p384, SHA-256 for the others), then the digest of `publicArea`. */
  readonly name: Uint8Array;
}

export interface EkCertificate {
  readonly nvIndex: number;
  /** One X.509 certificate, without the padding some TPMs store after it. */
  readonly der: Uint8Array;
}

export interface Quote {
  /** TPMS_ATTEST, exactly the bytes that were signed. */
  readonly attest: Uint8Array;
  /** TPMT_SIGNATURE. */
  readonly signature: Uint8Array;
}

/**
 * What the agent asks of a TPM 2.0. There is deliberately no unseal: a sealed secret never becomes a JavaScript value.
 * Every method throws AttestError `ERR_TPM` when the TPM refuses a command (its answer is the `cause`). Nothing here
 * authenticates the TPM: that is the verifier's work, from certificates, signatures and ActivateCredential.
 */
export interface Tpm extends AsyncDisposable {
  /** The banks of this project that have PCRs allocated. */
  activeBanks(): Promise<readonly PcrBank[]>;
  /** Present values of all `indices`; ERR_TPM when the TPM lacks one in that bank. Not signed: use `quote` as evidence. */
  pcrRead(bank: PcrBank, indices: readonly number[]): Promise<Map<number, Uint8Array>>;
  /**
   * Extends every active bank in one command for each event: the banks of this project with its digests, any further one with its own
   * hash of the SHA-384 digest. A bank that were left open could be filled with values that were published before. Where one fails those
   * before it are extended, and those after it are not.
   */
  pcrExtend(index: number, ...events: readonly Readonly<Record<PcrBank, Uint8Array>>[]): Promise<void>;
  /**
   * The same key at every call and boot until the endorsement seed changes. Dispose it: a TPM holds three objects.
   * @param kind "p256" by default; a TPM may search many seconds for the primes of an RSA key
   */
  createAttestationKey(kind?: AttestationKeyKind): Promise<AttestationKey>;
  /** @param extraData at most 64 bytes, the verifier's nonce or a digest over it */
  quote(key: AttestationKey, extraData: Uint8Array, bank: PcrBank, pcrs: readonly number[]): Promise<Quote>;
  /** EK certificates from NV, in order of their index; empty when the TPM has none. Not verified here. */
  ekCertificates(): Promise<readonly EkCertificate[]>;
  /** The EK as this connection shows it. Compare its Name with the certificate's or a pinned one. */
  endorsementKey(kind: EndorsementKeyKind): Promise<EndorsementKeyPublic>;
  /**
   * Opens a credential that was made for this attestation key's Name and this EK.
   * @param encryptedSecret content of the TPM2B_ENCRYPTED_SECRET, without its size
   * @param credentialBlob content of the TPM2B_ID_OBJECT, without its size
   */
  activateCredential(
    key: AttestationKey,
    credentialBlob: Uint8Array,
    encryptedSecret: Uint8Array,
    kind?: EndorsementKeyKind,
  ): Promise<Uint8Array>;
  /** Releases what is still held in the TPM and ends the connection. */
  close(): Promise<void>;
}
