import { copyFile, mkdtemp, open, readFile, rm, stat, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { StateVolume } from "../../agent/spawner-client.ts";
import { toHex, utf8 } from "../../policy/index.ts";
import { makeBlankDisk } from "../../vm-images/qemu.ts";
import {
  bootStateMachine,
  buildStateMachine,
  type StateMachine,
  type StateMachineFiles,
} from "../support/state-machine.ts";

// One machine after another on the same disks, each left as the next part needs it. A disk's file is changed only while no
// volume is open on it.

const MIB = 1024 * 1024;
const BLOCK = 4096;
const VOLUME_BYTES = BigInt(64 * MIB);
const DISKS = { a: 80, b: 80, spare: 80, big: 96, tiny: 16 } as const;
const SEED_OF_B = 2;
const SOME_BLOCKS = 1024;

let directory: string;
let files: StateMachineFiles;
let machine: StateMachine;
let volumeA: StateVolume;

const disk = (name: keyof typeof DISKS): string => join(directory, `${name}.img`);
const disks = () => Object.fromEntries(Object.keys(DISKS).map((name) => [name, disk(name as keyof typeof DISKS)]));
const refused = (state: string) => ({ code: "ERR_STATE_VOLUME", exitCode: 4, state });

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "ironclaw-state-"));
  files = await buildStateMachine(directory);
  for (const [name, mebibytes] of Object.entries(DISKS))
    await makeBlankDisk(disk(name as keyof typeof DISKS), mebibytes * MIB);
  machine = await bootStateMachine(files, disks());
});
afterAll(async () => {
  await machine?.cut();
  if (directory !== undefined) await rm(directory, { recursive: true, force: true });
});

async function overwrite(path: string, at: number, bytes: Uint8Array): Promise<void> {
  const file = await open(path, "r+");
  await file.write(bytes, 0, bytes.length, at);
  await file.close();
}

async function bytesAt(path: string, at: number, length: number): Promise<Buffer> {
  const file = await open(path, "r");
  const { buffer } = await file.read(Buffer.alloc(length), 0, length, at);
  await file.close();
  return buffer;
}

async function flip(path: string, at: number): Promise<void> {
  const [value = 0] = await bytesAt(path, at, 1);
  await overwrite(path, at, Uint8Array.of(value ^ 1));
}

/** As the stand-in for the unsealer makes it from its number. */
function keyOf(seed: number): Uint8Array {
  return Uint8Array.from({ length: 96 }, (_, i) => seed * 31 + i * 97 + i * i * 5);
}

describe("a state disk without a volume", () => {
  it("I11: one that is missing, too small or blank is told apart, and a blank one stays blank unless asked", async () => {
    await expect(machine.open("none", { format: true })).rejects.toMatchObject(refused("state-missing"));
    await expect(machine.open("tiny", { format: true })).rejects.toMatchObject(refused("state-truncated"));
    await expect(machine.open("a")).rejects.toMatchObject(refused("state-blank"));
    expect((await stat(disk("a"))).blocks).toBe(0);
  });

  it.each(["short", "long"] as const)("I4: a key that is too %s opens nothing and formats nothing", async (key) => {
    await expect(machine.open("a", { format: true, key })).rejects.toMatchObject(refused("state-key"));
    expect((await stat(disk("a"))).blocks).toBe(0);
  });

  it("I8: a blank disk is formatted when asked, and mounted for the agent alone", async () => {
    volumeA = await machine.open("a", { format: true });
    expect(volumeA).toMatchObject({ formatted: true, bytes: VOLUME_BYTES });
    expect(await machine.ask("mount")).toBe(
      "/run/ironclaw/state ext4 rw,nosuid,nodev,noexec,noatime,errors=remount-ro 0 0",
    );
    expect(await machine.ask("read volume-id")).toBe(toHex(volumeA.volumeId));
    expect(await bytesAt(disk("a"), 12, 16)).toEqual(Buffer.from(volumeA.volumeId));
  });
});

describe("the key of an open volume", () => {
  it("I4: is neither in the spawner's memory nor in its log, and device mapper shows root only its name", async () => {
    expect(await machine.ask("search 1")).toBe("0");
    expect(await machine.ask("plant 3")).toBe("ok");
    expect(Number(await machine.ask("search 3"))).toBeGreaterThan(0);
    expect(await machine.ask("table")).toMatch(
      /^capi:authenc\(hmac\(sha256\),xts\(aes\)\)-random :96:logon:ironclaw:state 0 /,
    );
    const key = Buffer.from(keyOf(1));
    expect(machine.console()).not.toContain(key.toString("hex").slice(0, 32));
    expect((await readFile(disk("a"))).includes(key.subarray(0, 16))).toBe(false);
  });

  it("I4: the agent's user reaches the mount and none of the devices below it", async () => {
    // Control node, volume, raw disk; then a file of the mount, and the mount's mode and owner.
    expect(await machine.ask("agent")).toBe("EACCES EACCES EACCES opens 700 990");
  });
});

describe("a state volume with something on it", () => {
  beforeAll(async () => {
    expect(await machine.ask("write note acknowledged")).toBe("ok");
    await machine.close();
    await machine.open("b", { format: true, seed: SEED_OF_B });
    await machine.close();
  });

  it("I8: what was written is there when it is opened again, whether or not formatting was asked for", async () => {
    for (const format of [false, true]) {
      expect(await machine.open("a", { format })).toEqual({ ...volumeA, formatted: false });
      expect(await machine.ask("read note")).toBe(toHex(utf8("acknowledged")));
      await machine.close();
    }
  });

  it("I2: with another key nothing on it can be read, and it is not taken for damaged or blank", async () => {
    await expect(machine.open("a", { seed: SEED_OF_B })).rejects.toMatchObject(refused("state-foreign"));
    await expect(machine.open("a", { seed: SEED_OF_B, format: true })).rejects.toMatchObject(refused("state-foreign"));
  });

  it("I8: the header of one volume before the body of another is refused, whichever of the two keys comes", async () => {
    for (const [head, body, keyOfHead, keyOfBody] of [
      ["a", "b", 1, SEED_OF_B],
      ["b", "a", SEED_OF_B, 1],
    ] as const) {
      await copyFile(disk(body), disk("spare"));
      await overwrite(disk("spare"), 0, await bytesAt(disk(head), 0, BLOCK));
      await expect(machine.open("spare", { seed: keyOfHead })).rejects.toMatchObject(refused("state-foreign"));
      await expect(machine.open("spare", { seed: keyOfBody })).rejects.toMatchObject({
        ...refused("state-damaged"),
        message: expect.stringMatching(/volume-id/),
      });
    }
  });

  it.each([
    ["magic", 0],
    ["version", 11],
    ["volume id", 12],
    ["disk size", 35],
    ["padding", 36],
    ["end of the padding", 4063],
    ["checksum", 4095],
  ])("I8: a header with one changed bit (%s) is damaged, never blank", async (_where, at) => {
    await copyFile(disk("a"), disk("spare"));
    await flip(disk("spare"), at);
    await expect(machine.open("spare", { format: true })).rejects.toMatchObject(refused("state-damaged"));
  });

  it("I11: a zeroed or changed dm-integrity superblock is damage, and the disk is not formatted over it", async () => {
    await copyFile(disk("a"), disk("spare"));
    // Magic, version, tag size. Another interleave is well formed, and then nothing lies where it did.
    for (const [at, state] of [
      [0, "state-damaged"],
      [8, "state-damaged"],
      [10, "state-damaged"],
      [9, "state-foreign"],
    ] as const) {
      await flip(disk("spare"), BLOCK + at);
      await expect(machine.open("spare", { format: true })).rejects.toMatchObject(refused(state));
      await flip(disk("spare"), BLOCK + at);
    }
    await overwrite(disk("spare"), BLOCK, new Uint8Array(BLOCK));
    await expect(machine.open("spare", { format: true })).rejects.toMatchObject(refused("state-damaged"));
    expect(await bytesAt(disk("spare"), BLOCK, BLOCK)).toEqual(Buffer.alloc(BLOCK));
    await overwrite(disk("spare"), BLOCK, await bytesAt(disk("a"), BLOCK, BLOCK));
    expect(await machine.open("spare")).toEqual({ ...volumeA, formatted: false });
    await machine.close();
  });

  it("I8: one changed bit of what is stored is an error when it is read, never other data", async () => {
    await machine.open("a");
    const before = await readFile(disk("a"));
    expect(await machine.ask(`fill pattern ${SOME_BLOCKS}`)).toBe("ok");
    await machine.close();
    const { first, length } = longestChange(before, await readFile(disk("a")));
    expect(length).toBeGreaterThanOrEqual(SOME_BLOCKS);
    await copyFile(disk("a"), disk("spare"));
    await flip(disk("spare"), (first + SOME_BLOCKS / 2) * BLOCK + 99);
    await machine.open("spare");
    expect(await machine.ask("verify pattern")).toBe(`right ${SOME_BLOCKS - 1} wrong 0 failed 1 EILSEQ`);
    expect(await machine.ask("read note")).toBe(toHex(utf8("acknowledged")));
    await machine.close();
    await machine.open("a");
    expect(await machine.ask("verify pattern")).toBe(`right ${SOME_BLOCKS} wrong 0 failed 0 -`);
    await machine.close();
  });
});

/** The longest run of blocks that differ. */
function longestChange(before: Buffer, after: Buffer): { readonly first: number; readonly length: number } {
  let best = { first: 0, length: 0 };
  for (let block = 0, first = 0; block < after.length / BLOCK; block += 1) {
    const [from, to] = [block * BLOCK, (block + 1) * BLOCK];
    if (before.compare(after, from, to, from, to) === 0) first = block + 1;
    if (block + 1 - first > best.length) best = { first, length: block + 1 - first };
  }
  return best;
}

describe("a power cut", () => {
  it("I11: a state volume whose formatting was cut by a power loss is blank, and formats again", async () => {
    await machine.open("big", { format: true });
    await machine.close();
    await writeFile(disk("spare"), "");
    await truncate(disk("spare"), DISKS.spare * MIB);
    const cut = machine.open("spare", { format: true });
    cut.catch(() => undefined); // nobody answers any more
    while ((await stat(disk("spare"))).blocks * 512 < 8 * MIB) await delay(20);
    await machine.cut();
    await truncate(disk("big"), (DISKS.big - 8) * MIB);

    machine = await bootStateMachine(files, disks());
    await expect(machine.open("spare")).rejects.toMatchObject(refused("state-blank"));
    expect(await machine.open("spare", { format: true })).toMatchObject({ formatted: true });
    expect(await machine.ask("read note")).toBe("ENOENT");
    await machine.close();
  });

  it("I11: one whose formatting was cut just before its header was written is blank as well", async () => {
    await overwrite(disk("spare"), 0, new Uint8Array(BLOCK));
    await expect(machine.open("spare")).rejects.toMatchObject(refused("state-blank"));
    const { volumeId, formatted } = await machine.open("spare", { format: true, seed: SEED_OF_B });
    expect(formatted).toBe(true);
    expect(volumeId).not.toEqual(volumeA.volumeId);
    await machine.close();
  });

  it("I11: a disk that is smaller than when it was formatted is truncated, not damaged", async () => {
    await expect(machine.open("big")).rejects.toMatchObject(refused("state-truncated"));
  });

  it("I8: every record that was synced before a power loss is there afterwards", async () => {
    expect(await machine.open("a")).toEqual({ ...volumeA, formatted: false });
    expect(await machine.ask("read note")).toBe(toHex(utf8("acknowledged")));
    let acknowledged = 0;
    await machine.follow("append log", (line) => {
      acknowledged = Number(line) + 1;
      return acknowledged === 60;
    });
    await machine.cut();
    machine = await bootStateMachine(files, disks());
    expect(await machine.open("a")).toEqual({ ...volumeA, formatted: false });
    expect(Number(await machine.ask("count log"))).toBeGreaterThanOrEqual(acknowledged);
    await machine.close();
  });
});
