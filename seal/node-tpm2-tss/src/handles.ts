import type { Connection } from "./connection.ts";
import { ESYS_TR } from "./constants.ts";

/** Something in the TPM that this connection refers to. Disposing flushes it, or forgets it when it is persistent. */
export class TpmHandle implements AsyncDisposable {
  /** The ESYS_TR: meaningful to the connection that made it only. */
  readonly tr: number;
  readonly #connection: Connection;

  constructor(connection: Connection, tr: number) {
    this.#connection = connection;
    this.tr = tr;
  }

  /** Does nothing the second time, or after the connection was closed. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.#connection.release(this.tr);
  }
}

/** A key, another object, or an NV index. */
export class TpmObject extends TpmHandle {
  /** nameAlg, then the digest of the public area. Of persistent handles: what the connection answered, unauthenticated. */
  readonly name: Uint8Array;

  constructor(connection: Connection, tr: number, name: Uint8Array) {
    super(connection, tr);
    this.name = name;
  }
}

/** A key that was made here, with its public area. */
export class PrimaryKey extends TpmObject {
  /** TPMT_PUBLIC. */
  readonly publicArea: Uint8Array;

  constructor(connection: Connection, tr: number, name: Uint8Array, publicArea: Uint8Array) {
    super(connection, tr, name);
    this.publicArea = publicArea;
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

/** What authorises or encrypts a command: an empty password, or a session. */
export type Authorization = "password" | Session;

export function sessionHandles(sessions: readonly Authorization[]): readonly number[] {
  return sessions.map((session) => (session === "password" ? ESYS_TR.password : session.tr));
}
