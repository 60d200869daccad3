import { readFileSync, writeFileSync, writeSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { openNative } from "../../agent/native/index.ts";
import { openShim, type Shim } from "../../agent/shim-client.ts";
import type { ShimKey } from "../../agent/shim-replies.ts";
import { openSpawner, type ShimFile, type Spawner, type StartShim } from "../../agent/spawner-client.ts";
import { ByteWriter, fromHex, toHex, utf8 } from "../../policy/index.ts";
import { syscallName } from "../../policy/runtime/syscalls.ts";

// Stands in for the agent of a machine with one shim: the spawner starts this program, bundled, with the real spawner's
// socket on descriptor 3. It runs one library through a whole launch and writes down what came of it.

/** What the program is asked to do: a file, its one argument. */
export interface PairRequest {
  readonly natives: string;
  readonly result: string;
  readonly files: readonly ShimFile[];
  readonly start: Omit<StartShim, "profileSha256"> & { readonly profileSha256: string };
  readonly library: string;
  /** Substring of the label of the token to log in to. */
  readonly token: string;
  readonly pin: string;
  /** 32 bytes, hexadecimal: what EC keys sign as it is and RSA keys with CKM_SHA256_RSA_PKCS. */
  readonly data: string;
}

export interface PairSignature {
  readonly label: string;
  readonly type: "ec" | "rsa";
  readonly armed: boolean;
  readonly signature: string;
}

export interface PairResult {
  /** The step that failed and why, or null. */
  readonly failed: { readonly step: string; readonly message: string } | null;
  readonly probe: readonly { readonly name: string; readonly errno: number }[];
  /** Calls that the kernel showed after the probe, by name. */
  readonly shown: Readonly<Record<string, number>>;
  readonly tokens: readonly string[];
  readonly signatures: readonly PairSignature[];
  readonly filters: number;
  /** The shim's exit code when it ended by itself, else null. */
  readonly exitCode: number | null;
  readonly status: Readonly<Record<string, string>>;
  readonly ownNamespaces: readonly string[];
}

type Draft = { -readonly [key in keyof PairResult]: PairResult[key] };

const CKK_RSA = 0n;
const CKM_SHA256_RSA_PKCS = 0x40n;
const CKM_ECDSA = 0x1041n;

async function main(path: string): Promise<void> {
  const request = JSON.parse(readFileSync(path, "utf8")) as PairRequest;
  const result: Draft = {
    ...{
      failed: null,
      probe: [],
      shown: {},
      tokens: [],
      signatures: [],
      filters: 0,
      exitCode: null,
      status: {},
      ownNamespaces: [],
    },
  };
  let step = "start";
  try {
    await launch(request, result, (name) => {
      step = name;
    });
  } catch (error) {
    result.failed = { step, message: error instanceof Error ? error.message : String(error) };
  }
  writeFileSync(request.result, JSON.stringify(result));
}

async function launch(request: PairRequest, result: Draft, enter: (step: string) => void): Promise<void> {
  const addon = openNative(request.natives);
  const spawner = openSpawner(addon, 3);
  enter("prepare");
  await spawner.prepareShim(request.start.id, request.files);
  enter("start");
  const { fds } = await spawner.startShim({ ...request.start, profileSha256: fromHex(request.start.profileSha256) });
  const shim = await openShim(fds.request, addon, { timeoutMs: 60_000 });
  try {
    enter("probe");
    result.probe = await shim.probe();
    const before = shim.attempts();
    try {
      await use(request, result, shim, fds.pin, enter);
    } finally {
      result.shown = since(before, shim.attempts());
      await describe(spawner, shim, request.start.id, result);
    }
  } finally {
    shim.close();
  }
}

async function use(
  { library, token, pin, data }: PairRequest,
  result: Draft,
  shim: Shim,
  channel: number,
  enter: (step: string) => void,
): Promise<void> {
  enter("load");
  const { slots } = await shim.load(library);
  result.tokens = slots.map(({ label }) => label);
  const slot = slots.find(({ label }) => label.includes(token));
  if (slot === undefined) throw new Error(`no token ${token} among ${result.tokens.length}`);
  enter("login");
  writeSync(channel, new ByteWriter().sized16(utf8(pin)).finish());
  await shim.login(slot.slotId);
  enter("keys");
  const keys = (await shim.keys(slot.slotId)).filter(({ flags }) => flags.get("sign") === true);
  enter("sign");
  const sign = async (key: ShimKey, armed: boolean): Promise<PairSignature> => {
    const rsa = key.keyType === CKK_RSA;
    const mechanism = rsa ? CKM_SHA256_RSA_PKCS : CKM_ECDSA;
    const asked = { slotId: slot.slotId, handle: key.handle, mechanism, pss: null, data: fromHex(data) };
    const signature = toHex(await shim.sign(asked));
    return { label: key.label, type: rsa ? "rsa" : "ec", armed, signature };
  };
  for (const key of keys) result.signatures = [...result.signatures, await sign(key, false)];
  enter("arm");
  if (keys.length === 0) return armAndWait(shim);
  await shim.uses(keys.map(({ handle }) => ({ slotId: slot.slotId, handle, use: "sign" as const })));
  result.filters = await shim.arm();
  enter("sign after ARM");
  for (const key of keys) result.signatures = [...result.signatures, await sign(key, true)];
}

/** For a library without keys, which ends the process once it is armed: before the reply, or after it. */
async function armAndWait(shim: Shim): Promise<void> {
  await shim.arm().catch(() => undefined);
  await shim.closed;
}

async function describe(spawner: Spawner, shim: Shim, id: number, result: Draft): Promise<void> {
  let gone = false;
  void shim.closed.then(() => {
    gone = true;
  });
  await delay(0);
  let status = await spawner.shimStatus(id);
  // its socket ends before the spawner has waited for it
  for (let turn = 0; gone && status.state === "running" && turn < 500; turn += 1) {
    await delay(20);
    status = await spawner.shimStatus(id);
  }
  result.exitCode = status.state === "ended" && (status.waitStatus & 0x7f) === 0 ? status.waitStatus >> 8 : null;
  result.status = Object.fromEntries(status.fields);
  result.ownNamespaces = status.ownNamespaces;
}

function since(
  before: Readonly<Record<number, number>>,
  now: Readonly<Record<number, number>>,
): Record<string, number> {
  const counts = Object.entries(now).map(([nr, count]): [string, number] => [
    syscallName(Number(nr)),
    count - (before[Number(nr)] ?? 0),
  ]);
  return Object.fromEntries(counts.filter(([, count]) => count > 0));
}

void main(process.argv[2] ?? "");
