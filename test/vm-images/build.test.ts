import { createHash } from "node:crypto";
import { mkdir, mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { zstdDecompressSync } from "node:zlib";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ByteReader, concatBytes } from "../../policy/index.ts";
import { type CpioEntry, encodeCpio } from "../../vm-images/cpio.ts";
import { sha256Hex } from "../../vm-images/digest.ts";
import { buildEsp } from "../../vm-images/esp.ts";
import { encodeInitrd, kernelModules } from "../../vm-images/initrd.ts";
import { type LockedPackage, readWholeLock, recipeLock } from "../../vm-images/lock.ts";
import { fetchPackages } from "../../vm-images/packages.ts";
import { clearPeTimes, endOfSections } from "../../vm-images/pe.ts";
import { RECIPE_NAMES, readRecipe } from "../../vm-images/recipes.ts";
import { type RootEntry, writeRoot } from "../../vm-images/rootfs.ts";
import { encodeTemplate, stateTemplate } from "../../vm-images/state-template.ts";
import { buildUki, type UkiParts } from "../../vm-images/uki.ts";
import { buildVerityRoot, verityArgument } from "../../vm-images/verity.ts";
import { readCpio } from "../support/cpio-reader.ts";
import { peImage } from "../support/pe-image.ts";

const text = (value: string): Uint8Array => new TextEncoder().encode(value);

let directory: string;
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "ironclaw-build-test-"));
});
afterAll(() => rm(directory, { recursive: true, force: true }));

describe("initrd", () => {
  it("I12: equal entries give equal cpio bytes, and reading them back gives the entries", () => {
    const name = fc.stringMatching(/^[a-z][a-z0-9/._-]{0,40}[a-z]$/);
    const entry = fc.record({
      path: name,
      mode: fc.integer({ min: 0, max: 0o777 }),
      bytes: fc.uint8Array({ maxLength: 64 }),
    });
    fc.assert(
      fc.property(fc.array(entry, { maxLength: 8 }), (entries: CpioEntry[]) => {
        const archive = encodeCpio(entries);
        expect(encodeCpio(structuredClone(entries))).toEqual(archive);
        expect(readCpio(archive)).toEqual(
          entries.map(({ path, mode, bytes }) => ({
            path,
            mode: 0o100000 | mode,
            mtime: 0,
            bytes: bytes ?? new Uint8Array(),
          })),
        );
      }),
    );
  });

  it("I12: kernel modules are loaded after what they depend on, whatever order the package lists them in, and what is built in is not", async () => {
    const tree = join(directory, "kernel");
    const modules = join(tree, "usr/lib/modules/6.12/kernel");
    await mkdir(modules, { recursive: true });
    const depends = {
      virtio_blk: "",
      "dm-verity": "dm-bufio,reed_solomon",
      "dm-bufio": "dm-mod",
      "dm-mod": "",
      reed_solomon: "",
      erofs: "",
      "dm-integrity": "dm-mod,dm-bufio,async_xor",
      async_xor: "xor",
      xor: "",
      "dm-crypt": "dm-mod",
      authenc: "",
      xts: "",
      "aesni-intel": "crypto_simd",
      crypto_simd: "",
      "sha256-ssse3": "",
      crc32c_generic: "",
      ...{ ext4: "jbd2", jbd2: "", "xhci-pci": "xhci-hcd,usbcore", "xhci-hcd": "usbcore", usbcore: "virtio_console" },
    };
    const builtin = ["drivers/virtio/virtio_pci", "drivers/char/virtio_console", "crypto/ecb"];
    await writeFile(join(modules, "../modules.builtin"), builtin.map((path) => `kernel/${path}.ko\n`).join(""));
    for (const [name, list] of Object.entries(depends))
      await writeFile(join(modules, `${name}.ko`), `\0license=GPL\0depends=${list}\0`);
    const found = await kernelModules(tree);
    const first = [
      ...["virtio_blk", "dm_mod", "dm_bufio", "reed_solomon", "dm_verity", "crc32c_generic", "erofs"],
      ...["xor", "async_xor", "dm_integrity", "dm_crypt", "authenc", "xts", "jbd2", "ext4"],
    ];
    const last = ["crypto_simd", "aesni_intel", "sha256_ssse3"];
    expect(found.map(({ name }) => name)).toEqual([...first, ...last]);
    const withUsb = await kernelModules(tree, ["xhci-pci"]);
    expect(withUsb.map(({ name }) => name)).toEqual([...first, "usbcore", "xhci_hcd", "xhci_pci", ...last]);
    const names = readCpio(zstdDecompressSync(encodeInitrd(text("init"), found))).map(({ path }) => path);
    expect(names).toEqual(
      expect.arrayContaining([
        "modules/04-dm_verity.ko",
        "modules/16-aesni_intel@aes.ko",
        "modules/17-sha256_ssse3@sha_ni.ko",
      ]),
    );
    expect(encodeInitrd(text("init"), found)).toEqual(encodeInitrd(text("init"), found));
  });

  it("a kernel package without a needed module is refused by name", async () => {
    await expect(kernelModules(join(directory, "nothing"))).rejects.toMatchObject({
      code: "ERR_IMAGE_SOURCE",
      message: expect.stringMatching(/virtio_pci/),
    });
  });
});

describe("UKI", () => {
  const parts: UkiParts = {
    stub: peImage([[".text", text("stub code")]]),
    osRelease: "ID=ironclaw\n",
    commandLine: "console=ttyS0",
    release: "6.12",
    kernel: peImage([[".text", text("kernel")]]),
    initrd: text("initrd"),
  };

  it("I12: equal parts give equal bytes, without a time stamp", async () => {
    const uki = await buildUki(parts);
    expect(await buildUki(parts)).toEqual(uki);
    expect(clearPeTimes(uki)).toEqual(uki);
    const header = Buffer.from(uki).readUInt32LE(60);
    expect(Buffer.from(uki).readUInt32LE(header + 8), "TimeDateStamp").toBe(0);
    expect(Buffer.from(uki).readUInt32LE(header + 88), "CheckSum").toBe(0);
  });

  it("sections are found behind each other, so the stub's own are untouched", async () => {
    expect(endOfSections(await buildUki(parts))).toBe(endOfSections(parts.stub) + 5 * 4096);
  });

  it("I10: mutated PE headers end in a typed error or an image of the same size", () => {
    const seed = peImage([[".text", text("code")]]);
    fc.assert(
      fc.property(fc.nat(seed.length - 1), fc.nat(255), (at, value) => {
        const bytes = Uint8Array.from(seed);
        bytes[at] = value;
        try {
          expect(clearPeTimes(bytes)).toHaveLength(seed.length);
        } catch (error) {
          expect(error).toMatchObject({ code: expect.stringMatching(/^ERR_/) });
        }
      }),
    );
  });

  it("I12: an ESP made twice from one kernel image is identical", async () => {
    const [first, second] = [join(directory, "a.img"), join(directory, "b.img")];
    await buildEsp(text("kernel image"), first);
    await buildEsp(text("kernel image"), second);
    expect(sha256Hex(await readFile(second))).toBe(sha256Hex(await readFile(first)));
  });
});

/** dm-verity's hash tree, version 1 (salt before block), computed without veritysetup. Returns the root hash. */
function verityRootHash(data: Uint8Array, salt: Uint8Array): string {
  const block = 4096;
  const hash = (bytes: Uint8Array): Buffer => createHash("sha256").update(salt).update(bytes).digest();
  let level = Buffer.from(data);
  for (;;) {
    const digests = [];
    for (let at = 0; at < level.length; at += block) digests.push(hash(level.subarray(at, at + block)));
    if (digests.length === 1) return (digests[0] ?? Buffer.alloc(0)).toString("hex");
    const joined = Buffer.concat(digests);
    level = Buffer.concat([joined, Buffer.alloc((block - (joined.length % block)) % block)]);
  }
}

describe("the state volume's template", () => {
  it("I12: an empty ext4 has the same few blocks whenever and wherever it is made", async () => {
    const first = await stateTemplate();
    const zone = process.env["TZ"];
    process.env["TZ"] = "Asia/Tokyo";
    const second = await stateTemplate().finally(() => {
      process.env["TZ"] = zone ?? "UTC";
    });
    expect(sha256Hex(second)).toBe(sha256Hex(first));
    expect(first.length).toBeLessThan(100_000);
  });

  it("the blocks it names and zeros elsewhere are the file system's image", () => {
    const sparse = fc.array(fc.option(fc.uint8Array({ minLength: 4096, maxLength: 4096 })), { maxLength: 6 });
    fc.assert(
      fc.property(sparse, (blocks) => {
        const image = concatBytes(...blocks.map((block) => block ?? new Uint8Array(4096)));
        const reader = new ByteReader(encodeTemplate(image), "template");
        expect(reader.bytes(8, "magic")).toEqual(text("IRONTMPL"));
        expect(reader.u32("blocks")).toBe(blocks.length);
        const rebuilt = new Uint8Array(image.length);
        for (let left = reader.u32("count"); left > 0; left -= 1) {
          const at = reader.u32("block");
          rebuilt.set(reader.bytes(4096, "bytes"), at * 4096);
        }
        reader.end();
        expect(rebuilt).toEqual(image);
      }),
      { numRuns: 20 },
    );
  });
});

describe("root", () => {
  const entries: RootEntry[] = [
    { kind: "bytes", path: "/usr/bin/program", bytes: text("program"), mode: 0o755 },
    { kind: "bytes", path: "/etc/setting", bytes: new Uint8Array(700_000).fill(7), mode: 0o644 },
    { kind: "link", path: "/bin", target: "usr/bin" },
    { kind: "directory", path: "/run" },
  ];

  it("I12: umask and the order in which files were made do not show in the root image", async () => {
    const build = async (name: string, list: readonly RootEntry[]): Promise<string> => {
      await writeRoot(list, join(directory, name));
      await buildVerityRoot(join(directory, name), join(directory, `${name}.img`));
      return sha256Hex(await readFile(join(directory, `${name}.img`)));
    };
    const first = await build("first", entries);
    const umask = process.umask(0o077);
    const second = await build("second", entries.toReversed()).finally(() => process.umask(umask));
    expect(second).toBe(first);
    expect((await stat(join(directory, "second/usr/bin/program"))).mode & 0o7777).toBe(0o755);
  });

  it("I12: the root hash on the command line is that of an independent computation over the data blocks", async () => {
    await writeRoot(entries, join(directory, "tree"));
    const image = await buildVerityRoot(join(directory, "tree"), join(directory, "tree.img"));
    const data = (await readFile(join(directory, "tree.img"))).subarray(0, image.blocks * 4096);
    expect(image.rootHash).toBe(verityRootHash(data, Buffer.from(image.salt, "hex")));
    expect(verityArgument(image)).toMatch(/^verity=\d+:[0-9a-f]{64}:[0-9a-f]{64}:erofs$/);
  });
});

describe("packages", () => {
  it("I12: every locked package has a version and a SHA-256, and none is named twice", async () => {
    const lock = await readWholeLock();
    expect(new Set(lock.map(({ name }) => name)).size).toBe(lock.length);
    for (const { version, sha256 } of lock) {
      expect(version).not.toBe("");
      expect(sha256).toMatch(/^[0-9a-f]{64}$/);
    }
  });

  it.each(RECIPE_NAMES)(
    "I12: the recipe %s takes one kernel from the lock and all else of it but the other kernels",
    async (name) => {
      const recipe = await readRecipe(name);
      const lock = await recipeLock(recipe);
      expect(lock.filter(({ group }) => group === "kernel").map(({ through }) => through)).toEqual([recipe.kernel]);
      const others = (await readWholeLock()).filter(({ group }) => group !== "kernel");
      expect(lock.filter(({ group }) => group !== "kernel")).toEqual(others);
    },
  );

  it("I12: what is in the cache with the locked digest is used without a network", async () => {
    const lock: LockedPackage[] = [
      { group: "guest", name: "absent-package", version: "1:1", sha256: sha256Hex("content") },
    ];
    const cache = join(directory, "cache");
    await mkdir(join(cache, "debs"), { recursive: true });
    await writeFile(join(cache, "debs", `${sha256Hex("content")}.deb`), "content");
    expect(await fetchPackages(cache, lock)).toMatchObject({ unlocked: false, packages: [{ name: "absent-package" }] });
  });
});
