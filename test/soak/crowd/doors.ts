import { connect, RefusedError } from "../../../agent/client/index.ts";
import { ECDSA, PRIVATE } from "../../support/broker-session.ts";
import { byteArray, INITIALIZE_VALUES, openRawClient, type RawClient, u32, ulongs } from "../../support/rpc-client.ts";
import type { Workload } from "./plan.ts";

/** Null: refused for its rate or its budget. */
export type Signed = Uint8Array | null;

/** One connection of a workload, by either door. Rejects for everything that the workload has not to expect. */
export interface OpenDoor {
  sign(digest: Uint8Array): Promise<Signed>;
  /** Reaches for what is not its own; what it got, empty when it got none of it. */
  reach(others: { readonly key: string }): Promise<string>;
  close(): Promise<void>;
}

const CKR_FUNCTION_REJECTED = 0x200n;
const CKR_SESSION_HANDLE_INVALID = 0xb3n;
const CKR_KEY_HANDLE_INVALID = 0x60n;

export function openDoor({ door, key }: Workload, path: string): Promise<OpenDoor> {
  return door === "native" ? openNative(path, key) : openP11kit(path);
}

async function openNative(path: string, key: string): Promise<OpenDoor> {
  const client = await connect(path);
  const session = client.session();
  const sign = (name: string, digest: Uint8Array): Promise<Signed | string> =>
    session.sign({ key: name, mechanism: "CKM_ECDSA", digest }).catch((error: unknown) => {
      if (error instanceof RefusedError) return error.reason;
      throw error;
    });
  return {
    sign: async (digest) => {
      const result = await sign(key, digest);
      if (typeof result !== "string") return result;
      if (result === "rate" || result === "budget") return null;
      throw new Error(`refused: ${result}`);
    },
    reach: async (others) => {
      const names = client.keys.map(({ name }) => name).join();
      if (names !== key) return `keys ${names}`;
      const result = await sign(others.key, new Uint8Array(32));
      return result === "not-allowed" ? "" : `key ${others.key}: ${typeof result === "string" ? result : "signed"}`;
    },
    close: async () => {
      await session.close();
      await client.close();
    },
  };
}

async function openP11kit(path: string): Promise<OpenDoor> {
  const client = await openRawClient(path);
  await expectOk(client, "C_Initialize", INITIALIZE_VALUES);
  await expectOk(client, "C_OpenSession", ulongs(1n, 4n));
  return {
    sign: (digest) => signP11kit(client, digest),
    reach: () => reachP11kit(client),
    close: async () => {
      client.end();
      await client.closed();
    },
  };
}

async function expectOk(client: RawClient, name: string, ...values: readonly Uint8Array[]): Promise<Uint8Array> {
  const reply = await client.call(name, ...values);
  if (reply.rv !== 0n) throw new Error(`${name}: 0x${reply.rv.toString(16)}`);
  return reply.values;
}

async function signP11kit(client: RawClient, digest: Uint8Array): Promise<Signed> {
  const init = await client.call("C_SignInit", ulongs(1n), ECDSA, ulongs(PRIVATE));
  if (init.rv === CKR_FUNCTION_REJECTED) return null;
  if (init.rv !== 0n) throw new Error(`C_SignInit: 0x${init.rv.toString(16)}`);
  const { rv, values } = await client.call("C_Sign", ulongs(1n), byteArray(digest), u32(512));
  if (rv === CKR_FUNCTION_REJECTED) return null;
  if (rv !== 0n) throw new Error(`C_Sign: 0x${rv.toString(16)}`);
  return values.slice(5);
}

/** Its sessions and objects are 1 and those of its one key; nobody else's numbers lead anywhere. */
async function reachP11kit(client: RawClient): Promise<string> {
  const opened = await expectOk(client, "C_OpenSession", ulongs(1n, 4n));
  const session = opened.slice(0, 8);
  await expectOk(client, "C_FindObjectsInit", session, u32(0));
  const objects = await expectOk(client, "C_FindObjects", session, u32(64));
  const expected = Buffer.concat([Uint8Array.of(1), u32(2), ulongs(1n, 2n)]);
  const beyond = await client.call("C_GetSessionInfo", ulongs(new DataView(session.buffer).getBigUint64(0) + 1n));
  const other = await client.call("C_SignInit", session, ECDSA, ulongs(3n));
  await expectOk(client, "C_CloseSession", session);
  const closed = await client.call("C_GetSessionInfo", session);
  if (Buffer.compare(objects, expected) !== 0) return `objects ${Buffer.from(objects).toString("hex")}`;
  if (beyond.rv !== CKR_SESSION_HANDLE_INVALID || closed.rv !== CKR_SESSION_HANDLE_INVALID) return "a session";
  return other.rv === CKR_KEY_HANDLE_INVALID ? "" : `key object 3: 0x${other.rv.toString(16)}`;
}
