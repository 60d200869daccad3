import { readFileSync, truncateSync, writeFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { readCabinet } from "../../../agent/cli/cabinet-slots.ts";
import { CABINET_SLOTS, encodeBundle, encodeCabinet, parseBundle, type SlotName } from "../../../policy/index.ts";
import { cli } from "../../support/cli.ts";
import { type CliFixture, ironclaw, makeCliFixture, PIN } from "../../support/cli-fixture.ts";
import { layOutEndorsement } from "../../support/cli-layout.ts";
import { startSwtpm } from "../../support/swtpm.ts";

interface Line {
  readonly id: string;
  readonly level: string;
  readonly what: string;
  readonly expected?: string;
  readonly got: string;
  readonly fix?: string;
}

let made: CliFixture;
const at = (name: string) => made.at(name);
const END = 4096 + Object.values(CABINET_SLOTS).reduce((sum, capacity) => sum + capacity, 0);

beforeAll(async () => {
  made = await makeCliFixture();
  // The fixture's PIN is for another token than its policy's, which is what this command finds.
  const seal = made.lineOf("seal").map((word) => (word === "1f00aa" ? "0123456789abcdef" : word));
  await ironclaw(seal.with(-1, at("hsm-pin.json")), PIN);
  await ironclaw(made.lineOf("cabinet new").with(2, at("cabinet.img")));
  await ironclaw([...seal.with(-1, at("hsm-pin2.json")), "--generation", "2"], PIN);
  const later = made.lineOf("release sign").with(-1, at("later.json"));
  await ironclaw(later.map((word, index) => (later[index - 1] === "--epoch" ? "3" : word)));
  const other = await startSwtpm();
  writeFileSync(at("own-ek.der"), readFileSync(at("ek.der")));
  await layOutEndorsement(made.directory, other);
  writeFileSync(at("other-ek.der"), readFileSync(at("ek.der")));
  await other.stop();
}, 120_000);
afterAll(async () => {
  await made?.[Symbol.asyncDispose]();
});

/** Runs `cabinet verify` and gives its exit code and its lines. */
async function verify(file: string, ...more: string[]): Promise<{ code: number; lines: readonly Line[] }> {
  const { code, out, err } = await cli(["cabinet", "verify", file, "--json", ...more]);
  expect(err).toBe("");
  const { ok, findings } = JSON.parse(out);
  expect(ok).toBe(code === 0);
  return { code, lines: findings };
}
const notOk = (lines: readonly Line[]) =>
  lines.filter(({ level }) => level !== "ok").map(({ level, id, what }) => `${level} ${id} ${what}`);

/** The good cabinet with these slots instead; undefined empties one. */
function write(changes: Partial<Record<SlotName, Uint8Array | undefined>>): string {
  const contents = readCabinet(at("cabinet.img"));
  for (const [slot, bytes] of Object.entries(changes) as [SlotName, Uint8Array | undefined][]) {
    if (bytes === undefined) contents.delete(slot);
    else contents.set(slot, bytes);
  }
  writeFileSync(at("changed.img"), encodeCabinet(contents));
  return at("changed.img");
}
const bundleOf = (...files: readonly (readonly [string, Uint8Array])[]) => encodeBundle(files);
const filesOf = (slot: SlotName) =>
  parseBundle(readCabinet(at("cabinet.img")).get(slot) ?? new Uint8Array()).map(
    ({ path, bytes }) => [path, bytes] as const,
  );
const bytes = (name: string) => new Uint8Array(readFileSync(at(name)));

describe("cabinet verify", () => {
  test("I2: a sound cabinet has no line but ok, with its image, its TPM and the cabinet before", async () => {
    const { code, lines } = await verify(
      at("cabinet.img"),
      "--image",
      at("image"),
      "--ek-certificate",
      at("own-ek.der"),
      "--before",
      at("cabinet.img"),
    );
    expect(notOk(lines)).toEqual([]);
    expect(code).toBe(0);
    expect([...new Set(lines.map(({ id }) => id))].sort()).toEqual([
      "before",
      "image",
      "layout",
      "module",
      "release",
      "sealed",
      "slot",
      "tpm",
    ]);
  });

  test("says each line with its level, what was expected, and the fix", async () => {
    const { code, out } = await cli(["cabinet", "verify", write({ sealed: undefined })]);
    expect(code).toBe(3);
    expect(out).toMatch(/^ok {3}release first: signed, epoch 1, /m);
    expect(out).toMatch(
      /^fail slot sealed: expected what a launch needs, got nothing\n {5}fix: `cabinet put CABINET sealed FILE`$/m,
    );
  });

  test.each<[string, () => Partial<Record<SlotName, Uint8Array | undefined>>, readonly string[]]>([
    ["without a policy", () => ({ policy: undefined }), ["fail slot slot policy"]],
    ["without anchors", () => ({ anchors: undefined }), ["fail slot slot anchors"]],
    [
      "with another policy than the release's",
      () => ({ policy: Buffer.from(made.text("policy.json").replace('"serial": 7', '"serial": 8')) }),
      ["fail release policy"],
    ],
    [
      "with a policy that is none",
      () => ({ policy: Buffer.from("{}") }),
      [expect.stringMatching(/^fail slot slot policy: /), "fail release policy"],
    ],
    [
      "with one byte of the library changed",
      () => ({
        module: bundleOf(
          ...filesOf("module").map(
            ([path, content]) =>
              [
                path,
                path.endsWith(".so")
                  ? content.with(content.length >> 1, 0x5a ^ (content[content.length >> 1] ?? 0))
                  : content,
              ] as const,
          ),
        ),
      }),
      [expect.stringMatching(/^fail module module .*\.so$/)],
    ],
    [
      "with a file that no shim gets",
      () => ({ module: bundleOf(...filesOf("module"), ["/zzz", new Uint8Array(1)]) }),
      ["warn module /zzz"],
    ],
    [
      "without the library",
      () => ({ module: bundleOf(["/etc/softhsm2.conf", new Uint8Array(1)]) }),
      [expect.stringMatching(/\.conf$/), expect.stringMatching(/\.so$/)].reverse(),
    ],
    [
      "without the PIN",
      () => ({ sealed: bundleOf(["/state.json", bytes("state.json")]) }),
      ["fail sealed credential hsm-pin"],
    ],
    [
      "without the volume's key",
      () => ({ sealed: bundleOf(["/hsm-pin.json", bytes("hsm-pin.json")]) }),
      ["fail sealed credential state"],
    ],
    [
      "with a credential under another's name",
      () => ({ sealed: bundleOf(["/a.json", bytes("hsm-pin.json")], ["/state.json", bytes("state.json")]) }),
      ["fail sealed sealed /a.json"],
    ],
    [
      "with a release where a credential was",
      () => ({ sealed: bundleOf(...filesOf("sealed"), ["/x.json", bytes("release.json")]) }),
      [expect.stringMatching(/^fail sealed sealed \/x\.json/)],
    ],
    [
      "with one byte of the release changed",
      () => ({
        release: bundleOf(
          ...filesOf("release").map(
            ([path, content]) => [path, content.with(300, 0x41 ^ (content[300] ?? 0))] as const,
          ),
        ),
      }),
      [expect.stringMatching(/^fail release release /)],
    ],
    [
      "with the files of a software token",
      () => ({ token: bundleOf(["/var/lib/x", new Uint8Array(1)]) }),
      ["warn slot slot token"],
    ],
  ])("I2: a cabinet %s says so, and exits by it", async (_, changes, found) => {
    const { code, lines } = await verify(write(changes()));
    expect(notOk(lines)).toEqual(found);
    expect(code).toBe(found.every((line) => typeof line === "string" && line.startsWith("warn")) ? 0 : 3);
    for (const { level, fix } of lines) expect(fix === undefined).toBe(level === "ok");
  });

  test("I11: a cabinet of another TPM, of another image, or behind the one before, is told apart", async () => {
    const swapped = await verify(at("cabinet.img"), "--ek-certificate", at("other-ek.der"));
    expect(notOk(swapped.lines)).toEqual(["fail tpm credential hsm-pin", "fail tpm credential state"]);
    const newer = readCabinet(at("cabinet.img"));
    newer.set("sealed", bundleOf(["/hsm-pin.json", bytes("hsm-pin2.json")], ["/state.json", bytes("state.json")]));
    newer.set("release", bundleOf(["/r.json", bytes("later.json")]));
    writeFileSync(at("newer.img"), encodeCabinet(newer));
    const back = await verify(at("cabinet.img"), "--before", at("newer.img"));
    expect(notOk(back.lines)).toEqual(["fail before credential hsm-pin", "fail before epoch"]);
    expect(back.lines.at(-2)).toMatchObject({ expected: "generation 2 or later", got: "1" });
  });

  test("I10: a file that was cut anywhere is no sound cabinet: at each structure's boundary, one byte before and one behind", async () => {
    const whole = readFileSync(at("cabinet.img"));
    let end = 4096;
    const offsets = [end, ...Object.values(CABINET_SLOTS).map((capacity) => (end += capacity))];
    const cuts = [0, 7, 8, 16, 592, 4064, ...offsets]
      .flatMap((cut) => [cut - 1, cut, cut + 1])
      .filter((cut) => cut >= 0 && cut < END);
    for (const cut of cuts) {
      writeFileSync(at("cut.img"), whole);
      truncateSync(at("cut.img"), cut);
      const { code, lines } = await verify(at("cut.img"));
      expect({ cut, code }).toEqual({ cut, code: 3 });
      expect(
        lines.some(({ id, level }) => id === "layout" && level === "fail"),
        `${cut}`,
      ).toBe(true);
    }
    writeFileSync(at("cut.img"), Buffer.concat([whole, Buffer.alloc(512)]));
    expect(notOk((await verify(at("cut.img"))).lines)).toEqual(["warn layout length"]);
  });

  test("I10: a damaged slot hides no other one", async () => {
    const whole = readFileSync(at("cabinet.img"));
    const policyAt = 4096 + CABINET_SLOTS.module;
    whole[policyAt + 10] = (whole[policyAt + 10] ?? 0) ^ 1;
    writeFileSync(at("changed.img"), whole);
    const { lines } = await verify(at("changed.img"));
    expect(notOk(lines)).toEqual([expect.stringMatching(/^fail layout slot policy: /), "fail slot slot policy"]);
    expect(lines).toContainEqual(expect.objectContaining({ level: "ok", what: "release first" }));
  });

  test("a file that is not there is an environment's failure, and one that is no cabinet an input's", async () => {
    expect((await cli(["cabinet", "verify", at("nowhere")])).code).toBe(4);
    expect((await verify(at("random"))).code).toBe(3);
  });
});
