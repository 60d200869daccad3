import type { CommandOptions, Input } from "./commands.ts";
import type { Answers } from "./connection.ts";
import type { Creation, TpmObject } from "./handles.ts";
import { ObjectCommands } from "./objects.ts";
import { encodePcrSelection, type PcrSelection } from "./structures.ts";

/** Of commands that sign. */
export interface SigningOptions extends CommandOptions {
  /** TPMT_SIG_SCHEME. Default: the key's own. */
  readonly scheme?: Uint8Array;
}

/** A signed statement of the TPM. Nothing of it is verified here. */
export interface Attestation {
  /** TPMS_ATTEST exactly as signed. */
  readonly attest: Uint8Array;
  /** TPMT_SIGNATURE. */
  readonly signature: Uint8Array;
}

// TPMT_SIG_SCHEME with TPM_ALG_NULL: the key's own scheme.
export const KEY_SCHEME = Uint8Array.of(0x00, 0x10);
// TPMT_TK_HASHCHECK of the null hierarchy: the digest was not made by this TPM.
const NO_HASHCHECK = Uint8Array.of(0x80, 0x24, 0x40, 0x00, 0x00, 0x07, 0x00, 0x00);

/** Quotes and other signed statements, signatures, credentials. */
export abstract class ProofCommands extends ObjectCommands {
  /** Over a digest of the selected PCRs. */
  async quote(
    key: TpmObject,
    qualifyingData: Uint8Array,
    selection: readonly PcrSelection[],
    options: SigningOptions = {},
  ): Promise<Attestation> {
    const inputs = [key, qualifyingData, options.scheme ?? KEY_SCHEME, encodePcrSelection(selection)];
    return attestation(await this.run("Quote", inputs, options, ["password"]));
  }
  /** That `object` is loaded in the same TPM, with this Name. Authorisations: object, key. */
  async certify(
    object: TpmObject,
    key: TpmObject,
    qualifyingData: Uint8Array,
    options: SigningOptions = {},
  ): Promise<Attestation> {
    const inputs = [object, key, qualifyingData, options.scheme ?? KEY_SCHEME];
    return attestation(await this.run("Certify", inputs, options, ["password", "password"]));
  }
  /** That this TPM made `object`, with this creation data. Authorisation: key. */
  async certifyCreation(
    key: TpmObject,
    object: TpmObject,
    qualifyingData: Uint8Array,
    creation: Pick<Creation, "creationHash" | "creationTicket">,
    options: SigningOptions = {},
  ): Promise<Attestation> {
    const { creationHash, creationTicket } = creation;
    const scheme = options.scheme ?? KEY_SCHEME;
    const inputs = [key, object, qualifyingData, creationHash, scheme, creationTicket];
    return attestation(await this.run("CertifyCreation", inputs, options, ["password"]));
  }
  /** The TPM's clock. Authorisations: endorsement hierarchy, key. */
  async getTime(key: TpmObject, qualifyingData: Uint8Array, options: SigningOptions = {}): Promise<Attestation> {
    const inputs: readonly Input[] = ["endorsement", key, qualifyingData, options.scheme ?? KEY_SCHEME];
    return attestation(await this.run("GetTime", inputs, options, ["password", "password"]));
  }

  /** TPMT_SIGNATURE over a digest. A restricted key needs the `ticket` (TPMT_TK_HASHCHECK) of a digest that the TPM made. */
  async sign(
    key: TpmObject,
    digest: Uint8Array,
    options: SigningOptions & { readonly ticket?: Uint8Array } = {},
  ): Promise<Uint8Array> {
    const { scheme = KEY_SCHEME, ticket = NO_HASHCHECK } = options;
    return (await this.run("Sign", [key, digest, scheme, ticket], options, ["password"])).bytes(0);
  }
  /** Returns a TPMT_TK_VERIFIED. `digest` is not hashed again. */
  async verifySignature(
    key: TpmObject,
    digest: Uint8Array,
    signature: Uint8Array,
    options: CommandOptions = {},
  ): Promise<Uint8Array> {
    return (await this.run("VerifySignature", [key, digest, signature], options)).bytes(0);
  }
  /** Encrypts `credential` to `key`, for an object of this Name in the same TPM. Needs the public part of `key` only. */
  async makeCredential(
    key: TpmObject,
    credential: Uint8Array,
    name: Uint8Array,
    options: CommandOptions = {},
  ): Promise<{ credentialBlob: Uint8Array; encryptedSecret: Uint8Array }> {
    const answers = await this.run("MakeCredential", [key, credential, name], options);
    return {
      credentialBlob: answers.bytes(0),
      encryptedSecret: answers.bytes(1),
    };
  }
  /** The credential, if it was made for the Name of `activated` and for `key`. Authorisations: activated, key. */
  async activateCredential(
    activated: TpmObject,
    key: TpmObject,
    credentialBlob: Uint8Array,
    encryptedSecret: Uint8Array,
    options: CommandOptions = {},
  ): Promise<Uint8Array> {
    const inputs = [activated, key, credentialBlob, encryptedSecret];
    return (await this.run("ActivateCredential", inputs, options, ["password", "password"])).bytes(0);
  }
}

export function attestation(answers: Answers): Attestation {
  return { attest: answers.bytes(0), signature: answers.bytes(1) };
}
