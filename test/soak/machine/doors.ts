import { ClientError, connect, RefusedError } from "../../../agent/client/index.ts";
import { ECDSA, oaep, PRIVATE, PUBLIC, plain } from "../../support/broker-session.ts";
import { byteArray, INITIALIZE_VALUES, openRawClient, type RawClient, u32, ulongs } from "../../support/rpc-client.ts";

/** A no of the PKCS #11 door's. */
export class Rejected extends Error {
  readonly rv: bigint;

  constructor(rv: bigint) {
    super(`0x${rv.toString(16)}`);
    this.rv = rv;
  }
}

/** The codes that stand for reasons of the native door. */
const REASONS: Readonly<Record<string, string>> = {
  ...{ "0x6": "audit", "0x30": "token-error", "0x31": "busy", "0x40": "bad-ciphertext", "0x200": "not-allowed" },
};

/** In a word what went wrong with an operation: a reason of RPC.md, `lost` or `unreachable`; whatever else there is, as it is. */
export function wordOf(error: unknown): string {
  if (error instanceof RefusedError) return error.reason;
  if (error instanceof Rejected) return REASONS[error.message] ?? error.message;
  if (error instanceof ClientError) {
    if (error.code === "ERR_CLIENT_UNREACHABLE") return "unreachable";
    return error.code === "ERR_CLIENT_CONNECTION_LOST" ? "lost" : error.message;
  }
  const { code, message } = error as NodeJS.ErrnoException;
  if (["ECONNREFUSED", "ENOENT"].includes(code ?? "")) return "unreachable";
  return message === "the connection was closed" || code === "ECONNRESET" ? "lost" : `${message}`;
}

export async function openNative(path: string) {
  const client = await connect(path);
  const session = client.session();
  return {
    session,
    close: async () => {
      await session.close();
      await client.close();
    },
  };
}

const MECHANISM = { ecdsa: ECDSA, rsa: plain(0, 0x40), oaep: oaep(0, { digest: "sha1" }), sha256: plain(0, 0x250) };
const SESSION = ulongs(1n);
const CKR_SIGNATURE_INVALID = 0xc0n;

/** A connection with one session, whose scope has one key. */
export async function openP11kit(path: string) {
  const client = await openRawClient(path);
  const call = (name: string, ...values: readonly Uint8Array[]) => ok(client, name, ...values);
  try {
    await call("C_Initialize", INITIALIZE_VALUES);
    await call("C_OpenSession", ulongs(1n, 4n));
  } catch (error) {
    client.end(); // who is refused may stay for half a minute
    throw error;
  }
  return {
    sign: async (mechanism: "ecdsa" | "rsa", data: Uint8Array) => {
      await call("C_SignInit", SESSION, MECHANISM[mechanism], ulongs(PRIVATE));
      return bytes(await call("C_Sign", SESSION, byteArray(data), u32(512)));
    },
    decrypt: async (ciphertext: Uint8Array) => {
      await call("C_DecryptInit", SESSION, MECHANISM.oaep, ulongs(PRIVATE));
      return bytes(await call("C_Decrypt", SESSION, byteArray(ciphertext), u32(512)));
    },
    /** Whether the agent takes it for a signature of the scope's key. */
    verifies: async (mechanism: "ecdsa" | "rsa", data: Uint8Array, signature: Uint8Array) => {
      await call("C_VerifyInit", SESSION, MECHANISM[mechanism], ulongs(PUBLIC));
      const { rv } = await client.call("C_Verify", SESSION, byteArray(data), byteArray(signature));
      if (rv !== 0n && rv !== CKR_SIGNATURE_INVALID) throw new Rejected(rv);
      return rv === 0n;
    },
    digest: async (data: Uint8Array) => {
      await call("C_DigestInit", SESSION, MECHANISM.sha256);
      return bytes(await call("C_Digest", SESSION, byteArray(data), u32(32)));
    },
    random: async (size: number) => bytes(await call("C_GenerateRandom", SESSION, u32(size))),
    close: async () => {
      client.end();
      await client.closed();
    },
  };
}

async function ok(client: RawClient, name: string, ...values: readonly Uint8Array[]): Promise<Uint8Array> {
  const reply = await client.call(name, ...values);
  if (reply.rv !== 0n) throw new Rejected(reply.rv);
  return reply.values;
}

/** Of `ay`: a flag, a length, and these. */
const bytes = (values: Uint8Array): Uint8Array => values.slice(5);
