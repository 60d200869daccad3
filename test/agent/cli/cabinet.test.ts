import { chmodSync, chownSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { readCabinet } from "../../../agent/cli/cabinet-slots.ts";
import { encodeBundle, encodeCabinet, parseBundle, sha256Hex } from "../../../policy/index.ts";
import { cli } from "../../support/cli.ts";
import { type CliFixture, expectComplaint, ironclaw, makeCliFixture, PIN } from "../../support/cli-fixture.ts";

let made: CliFixture;
beforeAll(async () => {
  made = await makeCliFixture();
  await ironclaw(made.lineOf("release sign").with(-1, at("release2.json")));
  const seal = made.lineOf("seal");
  await ironclaw([...seal.with(-1, at("hsm-pin2.json")), "--generation", "2"], PIN);
  const file = seal.filter((word) => word !== "--token-serial" && word !== "1f00aa");
  await ironclaw([...file.with(-1, at("tls-key.json")), "--kind", "file", "--name", "tls-key"], PIN);
}, 120_000);
afterAll(async () => {
  await made?.[Symbol.asyncDispose]();
});
beforeEach(() => ironclaw(made.lineOf("cabinet new")));
const at = (name: string) => made.at(name);
const filesOf = (slot: "release" | "sealed") =>
  parseBundle(readCabinet(at("other.img")).get(slot) ?? new Uint8Array()).map(({ path }) => path);
const put = (slot: string, name: string, ...more: string[]) => [
  ...["cabinet", "put", at("other.img"), slot, at(name)],
  ...more,
];
const releaseFile = (name: string) => `/${sha256Hex(readFileSync(at(name))).slice(0, 16)}.json`;

describe("a cabinet", () => {
  test("holds one file for each release and each credential, under names of its own", () => {
    expect(filesOf("sealed")).toEqual(["/hsm-pin.json", "/state.json"]);
    expect(filesOf("release")).toEqual([releaseFile("release.json")]);
  });

  test("`put` replaces all of a slot; with --add it adds, or replaces what has the same file name", async () => {
    await ironclaw(put("sealed", "tls-key.json", "--add"));
    expect(filesOf("sealed")).toEqual(["/hsm-pin.json", "/state.json", "/tls-key.json"]);
    const out = await ironclaw(put("sealed", "hsm-pin2.json", "--add"));
    expect(out).toMatch(/^ {2}\/hsm-pin\.json {2}hsm-pin, pin of token 1f00aa, generation 2, no end$/m);
    expect(filesOf("sealed")).toEqual(["/hsm-pin.json", "/state.json", "/tls-key.json"]);
    await ironclaw(put("sealed", "hsm-pin.json"));
    expect(filesOf("sealed")).toEqual(["/hsm-pin.json"]);
    for (const name of ["release2.json", "release2.json"]) await ironclaw(put("release", name, "--add"));
    expect(filesOf("release")).toEqual([releaseFile("release.json"), releaseFile("release2.json")].sort());
    await ironclaw(put("release", "release2.json"));
    expect(filesOf("release")).toEqual([releaseFile("release2.json")]);
  });

  test("I11: that a machine's agent reads by its group is its group's after `put`, with the same mode", async () => {
    const group = process.getuid?.() === 0 ? 990 : (process.getgroups?.().at(-1) ?? -1);
    chownSync(at("other.img"), process.getuid?.() ?? -1, group);
    chmodSync(at("other.img"), 0o660);
    const before = process.umask(0o077);
    try {
      await ironclaw(put("release", "release2.json"));
    } finally {
      process.umask(before);
    }
    const { gid, mode } = statSync(at("other.img"));
    expect([gid, mode & 0o777]).toEqual([group, 0o660]);
  });

  test("`new` takes several releases", async () => {
    await ironclaw([...made.lineOf("cabinet new"), "--release", at("release2.json")]);
    expect(filesOf("release").length).toBe(2);
  });

  test("I2: two packages of one credential, or one release twice, are refused", async () => {
    const two = await cli([...made.lineOf("cabinet new"), "--sealed", at("hsm-pin2.json")]);
    expectComplaint(two, 3, "two PINs");
    expect(two.err).toMatch(/\/hsm-pin\.json: expected one document, got two of one credential's name/);
    expectComplaint(
      await cli([...made.lineOf("cabinet new"), "--release", at("release.json")]),
      3,
      "one release twice",
    );
  });

  test("`list` says what is in each document, in JSON too", async () => {
    await ironclaw(put("release", "release2.json", "--add"));
    const { slots, warnings } = JSON.parse(await ironclaw(["cabinet", "list", at("other.img"), "--json"]));
    const documents = (slot: string) => slots.find((each: { slot: string }) => each.slot === slot).documents;
    expect(documents("sealed")).toEqual([
      { file: "/hsm-pin.json", name: "hsm-pin", kind: "pin", generation: 1, notAfter: null, tokenSerial: "1f00aa" },
      { file: "/state.json", name: "state", kind: "volume-key", generation: 1, notAfter: null, tokenSerial: null },
    ]);
    expect(documents("release")).toHaveLength(2);
    expect(documents("release")[0]).toMatchObject({
      epoch: 1,
      raise: false,
      now: "valid",
      credentials: ["hsm-pin", "state"],
    });
    expect(warnings).toEqual([]);
  });
});

describe("I11: what would stay sealed is said before the machine has it", () => {
  test("a credential that no release delegates", async () => {
    const out = await ironclaw(put("sealed", "tls-key.json", "--add"));
    expect(out).toMatch(/^warning: credential tls-key stays sealed: no release here/m);
  });

  test("a release that has not begun: its dates are no reason to refuse", async () => {
    await ironclaw([...made.lineOf("release sign").with(-1, at("later.json")), "--not-before", "2098-01-01T00:00:00Z"]);
    const out = await ironclaw(put("release", "later.json"));
    expect(out).toMatch(/\(not yet valid\)$/m);
    expect(out).toMatch(/^warning: release second begins later: 2098-01-01T00:00:00Z$/m);
  });

  test("a policy that no release is for", async () => {
    writeFileSync(at("policy2.json"), made.text("policy.json").replace('"serial": 7', '"serial": 8'));
    const out = await ironclaw(put("policy", "policy2.json"));
    expect(out).toMatch(/^warning: no release here is for this policy \(serial 8, [0-9a-f]{64}\)/m);
  });
});

describe("I2: a cabinet is written only when all of it verifies", () => {
  test("one changed byte is refused", async () => {
    const bytes = readFileSync(at("cabinet.img"));
    bytes[bytes.indexOf("application/vnd.ironclaw")] = 0x41;
    writeFileSync(at("changed"), bytes);
    const result = await cli(["cabinet", "list", at("changed")]);
    expectComplaint(result, 3, "cabinet list");
    expect(result.err).toMatch(/ERR_CABINET_CHECKSUM/);
  });

  test.each([
    ["a release for a sealed credential", "sealed", "release.json"],
    ["a sealed credential for a release", "release", "state.json"],
    ["anchors that others signed nothing under", "anchors", "evil-anchors.json"],
  ])("%s is refused, and the cabinet stays as it was", async (_, slot, name) => {
    await cli(["keys", "new", at("evil.pem")]);
    await cli([
      "keys",
      "anchors",
      ...["--root", "--operator"].flatMap((o) => [o, at("evil.pub")]),
      "--out",
      at("evil-anchors.json"),
    ]);
    const before = readFileSync(at("other.img"));
    for (const more of slot === "anchors" ? [[]] : [[], ["--add"]])
      expectComplaint(await cli(put(slot, name, ...more)), 3, name);
    // Of several documents the message says which.
    expect((await cli(put(slot, name))).err).toMatch(slot === "anchors" ? /release \/[0-9a-f]{16}\.json: / : name);
    expect(readFileSync(at("other.img")).equals(before)).toBe(true);
  });

  test("a document under another's file name is refused: two of one credential could stand side by side", async () => {
    const contents = readCabinet(at("other.img"));
    const files = [
      ["/hsm-pin.json", "hsm-pin.json"],
      ["/other.json", "hsm-pin2.json"],
    ] as const;
    contents.set("sealed", encodeBundle(files.map(([path, name]) => [path, readFileSync(at(name))])));
    writeFileSync(at("changed"), encodeCabinet(contents));
    const result = await cli(["cabinet", "list", at("changed")]);
    expectComplaint(result, 3, "cabinet list");
    expect(result.err).toMatch(/expected the file name \/hsm-pin\.json, got \/other\.json/);
  });
});
