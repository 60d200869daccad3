import { constants, hash, type KeyObject, publicEncrypt, randomBytes, verify } from "node:crypto";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { RefusedError } from "../../../agent/client/index.ts";
import { concatBytes, DIGESTS } from "../../../policy/index.ts";
import { openNative, openP11kit } from "./doors.ts";
import type { Ledger } from "./ledger.ts";
import { RESTORED, type Workload } from "./workloads.ts";

/** A workload's connection. */
export interface Open {
  /** One operation, of which everything is checked. Rejects with what the agent said. */
  operate(): Promise<void>;
  close(): Promise<void>;
}

export interface Place {
  /** Of the scopes' sockets. */
  readonly directory: string;
  /** By the policy's name. */
  readonly keys: Readonly<Record<string, KeyObject>>;
  readonly blob: Uint8Array;
  readonly ledger: Ledger;
  /** What must not be. */
  readonly wrong: (what: string) => void;
}

export function openWorkload(workload: Workload, place: Place): Promise<Open> {
  const { act, door } = workload;
  if (act === "unwrap") return openUnwrapping(workload, place);
  return door === "native" ? openAtNative(workload, place) : openAtP11kit(workload, place);
}

const sha256 = (bytes: Uint8Array): Buffer => hash("sha256", bytes, "buffer");
const pathOf = ({ directory }: Place, scope: string) => join(directory, `${scope}.sock`);
/** Nobody else signs this. */
const newMessage = (scope: string) => Buffer.from(`${scope} ${randomBytes(16).toString("hex")}`);

type Signing = "ecdsa" | "rsa" | "pss";
const KEY_OF = { ecdsa: "release-ec", rsa: "document-rsa", pss: "document-rsa" } as const;

function keyNamed({ keys }: Place, name: string): KeyObject {
  const key = keys[name];
  if (key === undefined) throw new TypeError(`no key ${name}`);
  return key;
}

function isGood(key: KeyObject, how: Signing, message: Uint8Array, signature: Uint8Array): boolean {
  const { RSA_PKCS1_PADDING, RSA_PKCS1_PSS_PADDING } = constants;
  if (how === "ecdsa") return verify("sha256", message, { key, dsaEncoding: "ieee-p1363" }, signature);
  const padding = how === "rsa" ? { padding: RSA_PKCS1_PADDING } : { padding: RSA_PKCS1_PSS_PADDING, saltLength: 32 };
  return verify("sha256", message, { key, ...padding }, signature);
}

/** Asks, writes both down, and looks at what came. */
async function signed(
  { scope }: Pick<Workload, "scope">,
  place: Place,
  [how, key]: readonly [Signing, KeyObject],
  ask: (message: Buffer, digest: Buffer) => Promise<Uint8Array>,
): Promise<{ readonly message: Buffer; readonly signature: Uint8Array }> {
  const message = newMessage(scope);
  const digest = sha256(message);
  const input = how === "rsa" ? concatBytes(Uint8Array.from(DIGESTS.sha256.digestInfoPrefix), digest) : digest;
  place.ledger.asked(scope, input);
  const signature = await ask(message, digest);
  place.ledger.acknowledged(scope, input);
  if (!isGood(key, how, message, signature)) place.wrong(`${scope}: a signature of another key, or of another message`);
  return { message, signature };
}

async function decrypted({ scope }: Workload, place: Place, ask: (input: Uint8Array) => Promise<Uint8Array>) {
  const plaintext = randomBytes(32);
  const oaep = { padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: "sha1" };
  const ciphertext = publicEncrypt({ key: keyNamed(place, "vault"), ...oaep }, plaintext);
  place.ledger.asked(scope, ciphertext);
  const got = await ask(ciphertext);
  place.ledger.acknowledged(scope, ciphertext);
  if (!plaintext.equals(got)) place.wrong(`${scope}: another plaintext`);
}

async function openAtNative(workload: Workload, place: Place): Promise<Open> {
  const { session, close } = await openNative(pathOf(place, workload.scope));
  const how = workload.act === "sign-rsa" ? "pss" : "ecdsa";
  const mechanism = how === "pss" ? "CKM_RSA_PKCS_PSS" : "CKM_ECDSA";
  const sign = (_: Buffer, digest: Buffer) => session.sign({ mechanism, digest });
  const decrypt = (ciphertext: Uint8Array) => session.decrypt({ mechanism: "CKM_RSA_PKCS_OAEP", ciphertext });
  const ask = workload.act === "approved" ? (_: Buffer, digest: Buffer) => approved(() => sign(_, digest)) : sign;
  return {
    close,
    operate: async () => {
      if (workload.act === "decrypt") await decrypted(workload, place, decrypt);
      else await signed(workload, place, [how, keyNamed(place, KEY_OF[how])], ask);
    },
  };
}

/** Asks again until somebody has approved it. */
async function approved(ask: () => Promise<Uint8Array>): Promise<Uint8Array> {
  for (;;) {
    try {
      return await ask();
    } catch (error) {
      if (!(error instanceof RefusedError) || error.reason !== "approval-needed") throw error;
      await delay(200);
    }
  }
}

async function openAtP11kit(workload: Workload, place: Place): Promise<Open> {
  const { scope, act } = workload;
  const door = await openP11kit(pathOf(place, scope));
  const how = act === "sign-rsa" ? "rsa" : "ecdsa";
  const input = (message: Buffer, digest: Buffer) => (how === "rsa" ? message : digest);
  const sign = async () => {
    const ask = (...of: Parameters<typeof input>) => door.sign(how, input(...of));
    const { message, signature } = await signed(workload, place, [how, keyNamed(place, KEY_OF[how])], ask);
    await verifyThere(message, signature);
  };
  const verifyThere = async (message: Buffer, signature: Uint8Array) => {
    const data = input(message, sha256(message));
    if (!(await door.verifies(how, data, signature))) place.wrong(`${scope}: its own signature does not verify`);
    const other = signature.map((byte, index) => (index === 7 ? byte ^ 1 : byte));
    if (await door.verifies(how, data, other)) place.wrong(`${scope}: a changed signature verifies`);
  };
  return {
    close: door.close,
    operate: async () => {
      if (act === "decrypt") await decrypted(workload, place, door.decrypt);
      else await sign();
      const random = await door.random(32);
      if (random.length !== 32 || random.every((byte) => byte === 0)) place.wrong(`${scope}: no random numbers`);
      if (!sha256(random).equals(await door.digest(random))) place.wrong(`${scope}: another digest`);
    },
  };
}

/** In through one scope, and used through another. */
async function openUnwrapping({ scope }: Workload, place: Place): Promise<Open> {
  const restore = await openNative(pathOf(place, scope));
  const restored = await openNative(pathOf(place, RESTORED)).catch(async (error: unknown) => {
    await restore.close();
    throw error;
  });
  const { blob, ledger } = place;
  const sign = (_: Buffer, digest: Buffer) => restored.session.sign({ key: RESTORED, mechanism: "CKM_ECDSA", digest });
  return {
    operate: async () => {
      ledger.asked(scope, blob);
      await restore.session.unwrap({ mechanism: "CKM_RSA_PKCS_OAEP", arriving: RESTORED, blob });
      ledger.acknowledged(scope, blob);
      await signed({ scope: RESTORED }, place, ["ecdsa", keyNamed(place, "restored")], sign);
    },
    close: async () => {
      await restore.close();
      await restored.close();
    },
  };
}
