import { chmodSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { toHex, utf8 } from "../../policy/index.ts";
import { CABINET, openSpawnerBench, range, rootFile, sha256 } from "./spawner/bench.ts";

const bench = openSpawnerBench();

describe("prepare-shim", () => {
  test("I1: the digest of every file is that of the bytes that were copied, at every length around a block", async () => {
    const data = Uint8Array.from({ length: 300_000 }, (_, index) => (index * 7 + (index >> 8)) & 0xff);
    const lengths = [
      ...Array.from({ length: 200 }, (_, index) => index),
      4095,
      4096,
      262_143,
      262_144,
      262_145,
      299_990,
    ];
    const spawner = await bench.started({ cabinet: data });
    const digests = await spawner.client.prepareShim(
      0,
      lengths.map((length, index) => range(`/f${index}`, 10, length)),
    );
    expect(digests.map(({ sha256: digest, size }) => `${size} ${toHex(digest)}`)).toEqual(
      lengths.map((length) => `${length} ${sha256(data.subarray(10, 10 + length))}`),
    );
  });

  test("the examples of FIPS 180-4 have their published digests", async () => {
    const texts = ["abc", "", "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"];
    const spawner = await bench.started({ cabinet: utf8(texts.join("")) });
    const files = texts.map((text, index) => range(`/f${index}`, texts.slice(0, index).join("").length, text.length));
    expect((await spawner.client.prepareShim(0, files)).map(({ sha256: digest }) => toHex(digest))).toEqual([
      "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
      "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
      "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
    ]);
  });

  test.each([
    ["profile", "relative"],
    ["/a/../b", "with .."],
    ["/a/./b", "with ."],
    ["/a//b", "with an empty component"],
    ["/a/", "with a slash at its end"],
    ["/", "without a name"],
    ["/a\nb", "with a control character"],
    ["/ü", "not ASCII"],
    [`/${"a".repeat(256)}`, "with a component that is too long"],
    ["/d".repeat(17), "too deep"],
  ])("I1: a destination %j (%s) is refused", async (path) => {
    const spawner = await bench.started();
    await expect(spawner.client.prepareShim(0, [range(path, 0, 1)])).rejects.toMatchObject({ code: "ERR_SPAWNER" });
  });

  test("I1: a destination that exists already is refused, so no measured file is replaced by a later one", async () => {
    const spawner = await bench.started();
    await expect(spawner.client.prepareShim(0, [range("/a", 0, 1), range("/a", 1, 1)])).rejects.toThrow(/exists/i);
    await expect(spawner.client.prepareShim(1, [range("/b", 0, 1), range("/b/c", 1, 1)])).rejects.toThrow(/directory/i);
  });

  test("a cabinet range beyond the cabinet's end is refused", async () => {
    const spawner = await bench.started();
    await expect(spawner.client.prepareShim(0, [range("/a", 0, CABINET.length + 1)])).rejects.toThrow(/no data/i);
    await expect(spawner.client.prepareShim(1, [range("/a", 2 ** 52, 1)])).rejects.toThrow(/no data/i);
    await expect(spawner.client.prepareShim(2, [range("/a", 0, 2 ** 40)])).rejects.toThrow(/too large/i);
  });

  test("a source that is no regular file, or that only its owner may read, is refused", async () => {
    const closed = join(bench.programs.directory, "closed");
    writeFileSync(closed, "not for the agent");
    chmodSync(closed, 0o640);
    const spawner = await bench.started();
    for (const [id, path] of ["/", "/dev/zero", closed, "/proc/self/exe", "relative", "/nowhere"].entries()) {
      await expect(spawner.client.prepareShim(id, [rootFile("/a", path)]), path).rejects.toMatchObject({
        code: "ERR_SPAWNER",
      });
    }
  });

  test("a link in the measured root is followed to the file whose bytes are hashed", async () => {
    const link = join(bench.programs.directory, "link");
    symlinkSync(bench.programs.shim, link);
    const spawner = await bench.started();
    const [digest] = await spawner.client.prepareShim(0, [rootFile("/a", link)]);
    expect(toHex(digest?.sha256 ?? new Uint8Array())).toBe(sha256(readFileSync(bench.programs.shim)));
  });
});
