import { ByteWriter, concatBytes, DIGESTS, OAEP_DIGESTS, type OaepDigestName } from "../../policy/index.ts";
import type { BrokerFixture } from "./broker-fixture.ts";
import {
  byteArray,
  INITIALIZE_VALUES,
  openRawClient,
  type RawClient,
  type Reply,
  requestFrame,
  u32,
  ulongs,
} from "./rpc-client.ts";

export const DIGEST = new Uint8Array(32).fill(0xd1);
export const DIGEST_INFO = Uint8Array.from([...DIGESTS.sha256.digestInfoPrefix, ...DIGEST]);
/** CKM_ECDSA without parameters, as versions 0 and 1 send it. */
export const ECDSA = concatBytes(u32(0x1041), u32(0xffff_ffff));
/** Handles of the two objects of a scope. */
export const PRIVATE = 1n;
export const PUBLIC = 2n;

/** Everything that an application sends for one signature, as one stream. */
export const SIGNING_STREAM = concatBytes(
  Uint8Array.of(0),
  requestFrame(0x10, "C_Initialize", INITIALIZE_VALUES),
  requestFrame(0x11, "C_OpenSession", ulongs(1n, 4n)),
  requestFrame(0x12, "C_FindObjectsInit", ulongs(1n), u32(0)),
  requestFrame(0x13, "C_FindObjects", ulongs(1n), u32(10)),
  requestFrame(0x14, "C_SignInit", ulongs(1n), ECDSA, ulongs(PRIVATE)),
  requestFrame(0x15, "C_Sign", ulongs(1n), byteArray(DIGEST), u32(512)),
);

export function openClient(broker: BrokerFixture, scope = "release-signing", version = 0): Promise<RawClient> {
  return openRawClient(broker.socket(scope), version);
}

/** CK_RSA_PKCS_OAEP_PARAMS with MGF1 of the same hash, as a client of this version sends the mechanism. */
export function oaep(
  version: number,
  {
    digest = "sha256",
    source = 1n,
    label = null,
  }: { digest?: OaepDigestName; source?: bigint; label?: Uint8Array | null } = {},
): Uint8Array {
  const { mechanism, mgf } = OAEP_DIGESTS[digest];
  const given = version >= 2 ? Uint8Array.of(1) : new Uint8Array();
  const bytes = label === null ? u32(0xffff_ffff) : new ByteWriter().sized32(label).finish();
  return concatBytes(u32(0x9), given, ulongs(mechanism, mgf, source), bytes);
}

/** A mechanism without parameters. */
export function plain(version: number, type: number): Uint8Array {
  return version >= 2 ? u32(type) : concatBytes(u32(type), u32(0xffff_ffff));
}

/** Everything that an application sends for one decryption, as one stream. */
export function decryptingStream(version: number, mechanism: Uint8Array, ciphertext: Uint8Array): Uint8Array {
  return concatBytes(
    Uint8Array.of(version),
    requestFrame(0x10, "C_Initialize", INITIALIZE_VALUES),
    requestFrame(0x11, "C_OpenSession", ulongs(1n, 4n)),
    requestFrame(0x12, "C_DecryptInit", ulongs(1n), mechanism, ulongs(PRIVATE)),
    requestFrame(0x13, "C_Decrypt", ulongs(1n), byteArray(ciphertext), u32(512)),
  );
}

/** A client with a session; its number is 1. */
export async function openSession(broker: BrokerFixture, scope?: string, version?: number): Promise<RawClient> {
  const client = await openClient(broker, scope, version);
  await client.call("C_Initialize", INITIALIZE_VALUES);
  await client.call("C_OpenSession", ulongs(1n, 4n));
  return client;
}

export function signInit(client: RawClient, mechanism = ECDSA, key = PRIVATE): Promise<Reply> {
  return client.call("C_SignInit", ulongs(1n), mechanism, ulongs(key));
}

export function sign(client: RawClient, data: Uint8Array = DIGEST, room = 512): Promise<Reply> {
  return client.call("C_Sign", ulongs(1n), byteArray(data), u32(room));
}

export function decryptInit(client: RawClient, mechanism: Uint8Array, key = PRIVATE): Promise<Reply> {
  return client.call("C_DecryptInit", ulongs(1n), mechanism, ulongs(key));
}

export function decrypt(client: RawClient, data: Uint8Array, room = 512): Promise<Reply> {
  return client.call("C_Decrypt", ulongs(1n), byteArray(data), u32(room));
}

/** Both calls; the rv of the one that failed, or the plaintext. */
export async function decryptOnce(
  client: RawClient,
  mechanism: Uint8Array,
  data: Uint8Array,
): Promise<bigint | Uint8Array> {
  const init = await decryptInit(client, mechanism);
  if (init.rv !== 0n) return init.rv;
  const reply = await decrypt(client, data);
  return reply.rv === 0n ? reply.values.slice(5) : reply.rv;
}

/** Sends a whole stream and resolves with everything that came back until the connection was closed. */
export async function replay(
  broker: BrokerFixture,
  stream: Uint8Array,
  scope = "release-signing",
): Promise<Uint8Array> {
  const client = await openRawClient(broker.socket(scope), null);
  await client.replay(stream);
  client.end();
  return client.closed();
}
