import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readdir, readFile, readlink, rm, stat, symlink, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { EMPTY_STORE, STORE_BYTES, STORE_SLOT_BYTES, Store, type StoreContent } from "../../seal/store.ts";
import { openStoreFile } from "../../seal/store-file.ts";

const run = promisify(execFile);

let directory: string;
const at = (name = "store") => join(directory, name);
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "ironclaw-store-"));
});
afterEach(() => rm(directory, { recursive: true }));

const content = (generation: number): StoreContent => ({
  ekName: null,
  entries: [{ name: "hsm-pin", generation, state: "served", package: new Uint8Array(9000), imported: null }],
});

/** Opens, uses, closes: as a process does it. */
function withStore<T>(path: string, use: (opened: ReturnType<typeof Store.open>) => T): T {
  const medium = openStoreFile(path);
  try {
    return use(Store.open(medium));
  } finally {
    medium.close();
  }
}

describe("a store in a file", () => {
  test("I11: a new file is empty, of full size, and readable by its owner only; what is written is read by the next process", async () => {
    expect(withStore(at(), ({ opened }) => opened)).toEqual({ content: EMPTY_STORE, damaged: false });
    expect(await stat(at())).toMatchObject({ size: STORE_BYTES, mode: 0o100600 });
    for (let generation = 1; generation <= 3; generation++)
      withStore(at(), ({ store }) => store.write(content(generation)));
    expect(withStore(at(), ({ store }) => store.content)).toEqual(content(3));
  });

  test.each([0, 1, 100, 4096, STORE_SLOT_BYTES - 1, STORE_SLOT_BYTES, STORE_SLOT_BYTES + 1, STORE_BYTES - 1])(
    "I11: a file cut off at %i bytes opens with what is whole in it, and is written again",
    async (size) => {
      for (let generation = 1; generation <= 3; generation++)
        withStore(at(), ({ store }) => store.write(content(generation)));
      await truncate(at(), size);
      const { store, opened } = withStore(at(), (both) => both);
      expect(opened.damaged).toBe(false);
      // The second write is in the first slot, the third in the second one.
      const left = size === STORE_BYTES - 1 ? content(3) : size < 12_500 ? EMPTY_STORE : content(2);
      expect(store.content).toEqual(left);
      withStore(at(), ({ store: again }) => again.write(content(4)));
      expect(withStore(at(), (both) => both.store.content)).toEqual(content(4));
      expect((await stat(at())).size).toBe(STORE_BYTES);
    },
  );

  test("I11: random bytes in a file are a damaged store, which can be written", async () => {
    await writeFile(
      at(),
      new Uint8Array(STORE_BYTES).map((_, index) => index * 7),
    );
    expect(withStore(at(), ({ opened }) => opened)).toEqual({ content: EMPTY_STORE, damaged: true });
    withStore(at(), ({ store }) => store.write(content(1)));
    expect(withStore(at(), ({ opened }) => opened)).toEqual({ content: content(1), damaged: false });
  });

  test("a larger file, as a raw partition is one, keeps its size and what lies behind the store", async () => {
    const tail = Buffer.from("behind the store");
    await writeFile(at(), Buffer.concat([Buffer.alloc(STORE_BYTES), tail]));
    withStore(at(), ({ store }) => store.write(content(1)));
    const bytes = await readFile(at());
    expect(bytes.subarray(STORE_BYTES)).toEqual(tail);
  });

  test("what is no file and no device, or cannot be opened, is ERR_STORE, and nothing stays open", async () => {
    await mkdir(at("directory"));
    await symlink(at("nowhere/store"), at("dangling"));
    for (const path of [at("directory"), at("missing/store"), at("dangling"), "/dev/null", "/dev/full"])
      expect(() => openStoreFile(path), path).toThrow(expect.objectContaining({ code: "ERR_STORE", exitCode: 4 }));
    const links = await Promise.all(
      (await readdir("/proc/self/fd")).map((fd) => readlink(`/proc/self/fd/${fd}`).catch(() => "")),
    );
    expect(links.filter((link) => link.startsWith(directory) || link === "/dev/full")).toEqual([]);
  });
});

/** Runs a module on a tmpfs of this size of its own, in a mount namespace of its own. */
async function onSmallDisk(size: string, program: string): Promise<unknown> {
  const mount = at("disk");
  await mkdir(mount, { recursive: true });
  const modules = ["store.ts", "store-file.ts"].map((name) => resolve(import.meta.dirname, "../../seal", name));
  const source = `
    import { Store } from ${JSON.stringify(modules[0])};
    import { openStoreFile } from ${JSON.stringify(modules[1])};
    const content = (generation, size = 9000) =>
      ({ ekName: null, entries: [{ name: "hsm-pin", generation, state: "served", package: new Uint8Array(size), imported: null }] });
    const attempt = (act) => { try { act(); return "done"; } catch (error) { return [error.code, error.got]; } };
    const open = () => Store.open(openStoreFile("${mount}/store"));
    ${program}`;
  await writeFile(at("program.mjs"), source);
  const shell = 'mount -t tmpfs -o "size=$1" none "$2" && exec "$3" "$4"';
  const { stdout } = await run("unshare", [
    "-rm",
    "sh",
    "-c",
    shell,
    "sh",
    size,
    mount,
    process.execPath,
    at("program.mjs"),
  ]);
  return JSON.parse(stdout);
}

describe("a store on a full disk", () => {
  test("I11: a write that finds no room is ERR_STORE with ENOSPC, and what was there stays, for this process and the next", async () => {
    const answer = await onSmallDisk(
      "64k",
      `
      const { store } = open();
      const first = attempt(() => store.write(content(1)));
      const large = attempt(() => store.write(content(2, 60_000)));
      const here = store.content.entries[0].generation;
      const again = attempt(() => store.write(content(3)));
      const next = open();
      console.log(JSON.stringify({ first, large, here, again, next: next.store.content.entries[0].generation, damaged: next.opened.damaged }));
    `,
    );
    expect(answer).toEqual({
      ...{ first: "done", large: ["ERR_STORE", "ENOSPC"], here: 1, again: "done", next: 3, damaged: false },
    });
    expect(existsSync(at("disk/store"))).toBe(false); // the namespace is gone
  });

  test("I11: a disk that is full from the beginning leaves an empty store, not a damaged one", async () => {
    const answer = await onSmallDisk(
      "16k",
      `
      const { store } = open();
      const write = attempt(() => store.write(content(1, 40_000)));
      const next = open();
      console.log(JSON.stringify({ write, entries: next.opened.content.entries.length, damaged: next.opened.damaged }));
    `,
    );
    expect(answer).toEqual({ write: ["ERR_STORE", "ENOSPC"], entries: 0, damaged: false });
  });
});

test("I11: a write returns only after the file was flushed, also the first one, which fills both slots", () => {
  const calls: string[] = [];
  const medium = openStoreFile(at());
  const { store } = Store.open({
    read: medium.read,
    write: (offset, bytes) => {
      calls.push(`write ${offset}`);
      medium.write(offset, bytes);
    },
    flush: () => {
      calls.push("flush");
      medium.flush();
    },
  });
  for (let generation = 1; generation <= 2; generation++) store.write(content(generation));
  medium.close();
  expect(calls).toEqual(["write 0", "flush", `write ${STORE_SLOT_BYTES}`, "flush", "write 0", "flush"]);
});
