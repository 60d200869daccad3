import type { Connection } from "./connection.ts";

/** Something in the TPM that this connection refers to. Disposing flushes it, or forgets it when it is persistent. */
export class TpmHandle implements AsyncDisposable {
  /** The ESYS_TR: meaningful to the connection that made it only. */
  readonly tr: number;
  readonly #connection: Connection;
  #released = false;

  constructor(connection: Connection, tr: number) {
    this.#connection = connection;
    this.tr = tr;
  }

  /**
   * `tr`, for a command on this connection. Throws for another, where the number may be something else: a TypeError, or what
   * every command is answered on a connection that was lost.
   */
  trOn(connection: Connection): number {
    if (connection === this.#connection) return this.tr;
    throw this.#connection.isLost
      ? this.#connection.ended("handle")
      : new TypeError("handle: made by another connection");
  }

  /** Does nothing the second time, or after the connection was closed. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.release();
  }

  /** Disposes, unless `signal` aborts while that waits; then it can be done again. */
  async release(signal?: AbortSignal): Promise<void> {
    if (this.#released) return;
    signal?.throwIfAborted();
    this.#released = true;
    try {
      await this.#connection.release(this.tr, signal);
    } catch (cause) {
      if (cause === signal?.reason) this.#released = false;
      throw cause;
    }
  }
}

/** A key, another object, or an NV index. */
export class TpmObject extends TpmHandle {
  /**
   * nameAlg, then the digest of the public area. Of persistent handles and NV indices: what the connection answered,
   * unauthenticated. An index's Name changes with its first write: `nvReadPublic` has the present one.
   */
  readonly name: Uint8Array;

  constructor(connection: Connection, tr: number, name: Uint8Array) {
    super(connection, tr);
    this.name = name;
  }
}

/** What Create and CreatePrimary tell of the object they made, as CertifyCreation and the caller need it. */
export interface Creation {
  /** TPMT_PUBLIC. */
  readonly publicArea: Uint8Array;
  /** TPMS_CREATION_DATA. */
  readonly creationData: Uint8Array;
  /** Digest of `creationData` with the object's nameAlg. */
  readonly creationHash: Uint8Array;
  /** TPMT_TK_CREATION. */
  readonly creationTicket: Uint8Array;
}

/** A key that was made here, with its public area and creation data. */
export class PrimaryKey extends TpmObject implements Creation {
  readonly publicArea: Uint8Array;
  readonly creationData: Uint8Array;
  readonly creationHash: Uint8Array;
  readonly creationTicket: Uint8Array;

  constructor(connection: Connection, tr: number, name: Uint8Array, creation: Creation) {
    super(connection, tr, name);
    this.publicArea = creation.publicArea;
    this.creationData = creation.creationData;
    this.creationHash = creation.creationHash;
    this.creationTicket = creation.creationTicket;
  }
}

/** An HMAC, policy or trial session. It stays usable after a command (continueSession); a policy is good for one use. */
export class Session extends TpmHandle {
  readonly kind: "hmac" | "policy" | "trial";

  constructor(connection: Connection, tr: number, kind: Session["kind"]) {
    super(connection, tr);
    this.kind = kind;
  }
}

/** What authorises or encrypts a command: the authValue in clear (empty unless `setAuth` gave one), or a session. */
export type Authorization = "password" | Session;
