/** How the token is asked to sign: always by a mechanism that does not hash. */
export interface SignMechanism {
  readonly type: "CKM_ECDSA" | "CKM_RSA_PKCS" | "CKM_RSA_PKCS_PSS" | "CKM_RSA_X_509";
  /** CK_MECHANISM_TYPE. */
  readonly value: bigint;
  /** CK_RSA_PKCS_PSS_PARAMS; null for the other mechanisms. */
  readonly pss: { readonly hash: bigint; readonly mgf: bigint; readonly saltLength: bigint } | null;
}

export interface DecryptMechanism {
  readonly type: "CKM_RSA_PKCS_OAEP" | "CKM_RSA_PKCS" | "CKM_RSA_X_509";
  /** CK_MECHANISM_TYPE. */
  readonly value: bigint;
  /** CK_RSA_PKCS_OAEP_PARAMS with the source CKZ_DATA_SPECIFIED; null for the other mechanisms. */
  readonly oaep: { readonly hash: bigint; readonly mgf: bigint; readonly label: Uint8Array } | null;
}

/** Whether something that was recorded as allowed still is: a shim may have to be replaced before it can be asked. */
export interface Asked {
  stillAllowed(): boolean;
}

/** The token behind the broker; keys are named as in the policy. In the guest: the shims. */
export interface Token {
  /**
   * A place among the requests that wait for the key's token, given back when it is disposed of; null when there are too many. Taken
   * before the decision is recorded: what is recorded as allowed is then asked.
   */
  reserve(key: string): Disposable | null;
  /**
   * @param asked looked at where the token is asked, without a turn of the event loop between; what is no longer allowed rejects instead
   * @returns the signature as PKCS #11 defines it (ECDSA: r and s, each of the field's size)
   * @throws AgentError `ERR_WITHHELD`
   */
  sign(
    request: { readonly key: string; readonly mechanism: SignMechanism; readonly data: Uint8Array },
    asked: Asked,
  ): Promise<Uint8Array>;
  /**
   * @param asked as for `sign`
   * @returns the plaintext in memory of its own: the broker wipes it
   * @throws AgentError `ERR_SHIM_REFUSED` for everything that the token answers instead of a plaintext, `ERR_WITHHELD`
   */
  decrypt(
    request: { readonly key: string; readonly mechanism: DecryptMechanism; readonly data: Uint8Array },
    asked: Asked,
  ): Promise<Uint8Array>;
  /**
   * Lets a wrapped key in and has it prove that it is the one expected.
   * @throws AgentError `ERR_SHIM_REFUSED` when the token has no key from it, `ERR_KEY_MISMATCH` when it is another one
   */
  unwrap(request: UnwrapKeyRequest): Promise<void>;
}

/** What a key becomes that arrives: everything by the policy's word, nothing by the caller's. */
export interface UnwrapKeyRequest {
  /** The key that unwraps. */
  readonly key: string;
  readonly mechanism: DecryptMechanism;
  readonly wrapped: Uint8Array;
  /** The name by which it is asked for from then on. */
  readonly place: string;
  /** SubjectPublicKeyInfo, DER. */
  readonly spki: Uint8Array;
  readonly keyType: "ec" | "rsa";
  readonly does: "sign" | "decrypt";
  readonly where: "session" | "token";
  /** CKA_LABEL and CKA_ID. */
  readonly label: string;
  readonly id: Uint8Array;
  /** `sha256:<hex>` of the wrapped key, for records. */
  readonly blob: string;
  /** Whether the policy in force would still let it in: asked before each time that it is unwrapped. While it comes in for the first time also whether its caller still may. */
  readonly stillAllowed: () => boolean;
  /** CKA_ALLOWED_MECHANISMS, by those that the token is asked by. */
  readonly allowed: readonly bigint[];
}
