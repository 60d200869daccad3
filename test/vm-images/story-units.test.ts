import { execFile } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, describe, expect, test } from "vitest";
import {
  decide,
  encodeBundle,
  MECHANISMS,
  type Policy,
  parseBundle,
  parsePolicy,
  type SlotName,
  sha256Hex,
  utf8,
} from "../../policy/index.ts";
import { demoPolicy, INTRUDER_UID, SCOPED_UID } from "../../vm-images/story/demo-policy.ts";
import { answerOf, signatureOf, signingFrames } from "../../vm-images/story/frames.ts";
import { Progress } from "../../vm-images/story/progress.ts";
import { renderStory } from "../../vm-images/story/render.ts";
import type { StoryResult } from "../../vm-images/story/story.ts";
import { addPolicyRule, changeLibraryByte } from "../../vm-images/story/tamper.ts";
import { type DemoToken, makeDemoToken, randomPin, TOKEN_DIRECTORY } from "../../vm-images/token/token.ts";
import { AMPLE } from "../support/decision.ts";
import { documentBytes, pinnedModule, policyDocument, SIGNER_EXE } from "../support/policy-document.ts";
import { SOFTHSM_LIBRARY } from "../support/softhsm.ts";

const run = promisify(execFile);
const directory = mkdtempSync(join(tmpdir(), "units-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const LIBRARY = "/usr/lib/softhsm/libsofthsm2.so";
const library = utf8("the library's bytes, of which one in the middle will change");

function contents(): Map<SlotName, Uint8Array> {
  return new Map<SlotName, Uint8Array>([
    [
      "module",
      encodeBundle([
        [LIBRARY, library],
        ["/etc/softhsm2.conf", utf8("conf")],
      ]),
    ],
    ["policy", documentBytes(policyDocument())],
  ]);
}

describe("the tampering of the story", () => {
  test("I1: exactly one bit of the library changes, and the bundle around it is whole again", () => {
    const before = contents();
    const after = changeLibraryByte(LIBRARY)(before);
    const [, changed] = parseBundle(after.get("module") ?? new Uint8Array());
    expect(changed?.path).toBe(LIBRARY);
    const differing = [...library].filter((byte, index) => changed?.bytes[index] !== byte);
    expect(differing).toHaveLength(1);
    expect(changed?.bytes).toHaveLength(library.length);
    expect(after.get("policy")).toBe(before.get("policy"));
    expect(before).toEqual(contents()); // the clean machine boots from these again
  });

  test("I6: the added rule gives the intruder the first scope's key, and leaves every other decision alone", () => {
    const before = contents();
    const after = addPolicyRule(INTRUDER_UID)(before);
    const [old, widened] = [before, after].map((map) => parsePolicy(map.get("policy") ?? new Uint8Array()));
    if (old === undefined || widened === undefined) throw new Error("two policies");
    const ask = (policy: Policy, uid: number, scope: string) =>
      decide(policy, {
        ...AMPLE,
        ...{ scope, key: "release-ec", operation: "sign", mechanism: "CKM_ECDSA" },
        caller: { uid, exe: SIGNER_EXE, unit: null },
        parameters: { kind: "none" },
        input: { kind: "pending" },
      }).allow;
    expect(ask(widened, INTRUDER_UID, "intruder")).toBe(true);
    for (const policy of [old, widened]) {
      expect(ask(policy, INTRUDER_UID, "release-signing")).toBe(false);
      expect(ask(policy, SCOPED_UID, "release-signing")).toBe(true);
    }
    expect(ask(old, INTRUDER_UID, "intruder")).toBe(false);
    expect(before).toEqual(contents());
  });

  test("a cabinet without what is to be changed ends in a typed error", () => {
    const empty = new Map<SlotName, Uint8Array>();
    for (const act of [
      () => changeLibraryByte(LIBRARY)(empty),
      () => changeLibraryByte("/another.so")(contents()),
      () => addPolicyRule(1)(empty),
    ]) {
      expect(act).toThrow(expect.objectContaining({ code: "ERR_IMAGE_SOURCE", exitCode: 4 }));
    }
  });
});

describe("the demo's policy", () => {
  const token: DemoToken = {
    ...{ label: "signing", serial: "1f00aa", files: [] },
    keys: { "release-ec": utf8("ec"), "document-rsa": utf8("rsa") },
  };
  const executable = "5e".repeat(32);
  const inputs = {
    module: pinnedModule(),
    ...{ profileSha256: "ab".repeat(32), devices: ["1af4:1041"], token, executables: [executable] },
  };
  const policy = parsePolicy(demoPolicy(inputs));

  test("I6: of all callers, scopes, keys and mechanisms it allows exactly what its scopes name", () => {
    const allowed: string[] = [];
    for (const uid of [0, SCOPED_UID, INTRUDER_UID])
      for (const scope of ["release-signing", "document-signing"])
        for (const key of Object.keys(policy.keys))
          for (const { type: mechanism } of MECHANISMS) {
            const decision = decide(policy, {
              ...AMPLE,
              ...{ scope, key, mechanism, operation: "sign" },
              caller: { uid, exe: `sha256:${executable}`, unit: null },
              parameters: { kind: "none" },
              input: { kind: "pending" },
            });
            if (decision.allow) allowed.push(`${uid} ${decision.rule} ${key}`);
          }
    expect(allowed).toEqual([
      "2001 release-signing/CKM_ECDSA release-ec",
      "2001 document-signing/CKM_RSA_PKCS document-rsa",
      "2001 document-signing/CKM_SHA256_RSA_PKCS document-rsa",
    ]);
  });

  test("it pins the token's public keys, and a token without them makes no policy", () => {
    expect(policy.keys["release-ec"]?.spki).toBe(`sha256:${sha256Hex(utf8("ec"))}`);
    expect(policy.tokens).toEqual({
      signing: { module: "softhsm", label: "signing", serial: "1f00aa", pin: "hsm-pin" },
    });
    const { "release-ec": _, ...keys } = token.keys;
    expect(() => demoPolicy({ ...inputs, token: { ...token, keys } })).toThrow(TypeError);
  });
});

describe("recorded requests", () => {
  test("the digest stands in the last frame only, and every frame says its own length", () => {
    const digest = new Uint8Array(32).fill(0xd1);
    const [version, ...frames] = signingFrames(digest, { slot: 1n, session: 2n, privateKey: 3n });
    expect(version).toEqual(Uint8Array.of(0));
    for (const frame of frames) {
      const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
      expect(12 + view.getUint32(4) + view.getUint32(8)).toBe(frame.length);
    }
    const holders = frames.filter((frame) => Buffer.from(frame).includes(digest));
    expect(holders).toEqual([frames.at(-1)]);
  });

  test("an answer cut anywhere is no signature and no crash", () => {
    const body = [0, 0, 0, 43, 0, 0, 0, 2, 97, 121, 1, 0, 0, 0, 3, 7, 8, 9];
    const whole = Uint8Array.from([0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, body.length, ...body]);
    expect(signatureOf(whole)).toEqual(Uint8Array.of(7, 8, 9));
    for (let length = 0; length < 20; length += 1) expect(answerOf(whole.subarray(0, length)).call).toBe(-1);
    expect(signatureOf(Uint8Array.from(whole).fill(0, 22, 23))).toBeNull();
  });

  test("an error answer carries its CK_RV", () => {
    const answer = Uint8Array.from([...Array(11).fill(0), 17, 0, 0, 0, 0, 0, 0, 0, 1, 117, 0, 0, 0, 0, 0, 0, 0, 0xe0]);
    expect(answerOf(answer)).toEqual({ call: 0, rv: 0xe0n });
  });
});

describe("progress", () => {
  const collect = (isTTY: boolean) => {
    let written = "";
    const stream = {
      isTTY,
      write: (chunk: string | Uint8Array) => {
        written += String(chunk);
        return true;
      },
    };
    return { progress: new Progress(stream), written: () => written };
  };

  test("off a terminal each step has a line when it starts and one when it ends, without control characters", async () => {
    const { progress, written } = collect(false);
    expect(await progress.step("build", async () => 7)).toBe(7);
    progress.note("a fact");
    expect(written()).toMatch(
      /^\[ +\d+\.\d s\] {2}build \.\.\.\n\[ +\d+\.\d s\] {2}build: done in \d+\.\d s\n {12}a fact\n$/,
    );
    expect(progress.timings).toEqual([{ step: "build", ms: expect.any(Number) }]);
  });

  test("a failed step is named as failed, its error passes through, and its time counts", async () => {
    const { progress, written } = collect(false);
    const failure = new Error("no");
    await expect(progress.step("boot", () => Promise.reject(failure))).rejects.toBe(failure);
    expect(written()).toMatch(/boot: FAILED in/);
    expect(progress.timings.map(({ step }) => step)).toEqual(["boot"]);
  });

  test("on a terminal two running steps share one line, which is erased before the next", async () => {
    const { progress, written } = collect(true);
    await progress.step("outer", () => progress.step("inner", async () => undefined));
    expect(written()).toMatch(/outer \(0 s\) \| inner|outer \(0 s\)/);
    expect(written()).toContain("\r\u001b[2K");
    expect(written().match(/\n/g)).toHaveLength(2);
    expect(progress.timings.map(({ step }) => step)).toEqual(["inner", "outer"]);
  });
});

describe("the story's ending", () => {
  const result: StoryResult = {
    ok: true,
    timings: [
      { step: "demo image", ms: 1234 },
      { step: "boot, measure, unseal, log in", ms: 20_000 },
    ],
    launch: [
      { phase: "booted", ms: 5 },
      { phase: "measuring", ms: 1_500 },
      { phase: "unsealing", ms: 500 },
    ],
    image: {} as StoryResult["image"],
    ...{ verdict: "affirming", assurance: "software-tpm", predictionHolds: { sha256: true, sha384: true } },
    measured: [{ kind: "library", name: LIBRARY, expected: "ab".repeat(32), got: "ab".repeat(32), agrees: true }],
    pcrs: [
      { pcr: 4, expected: "aa".repeat(32), got: "aa".repeat(32) },
      { pcr: 0, expected: null, got: "cc".repeat(32) },
    ],
    findings: [],
    notProven: [{ code: "software-tpm", text: "the host can play it" }],
    signature: { verified: true, nonce: "00", by: [{ client: "openssl engine", key: "document-rsa", verified: true }] },
    deniedCaller: true,
    denial: { denied: true, rv: "0xe0", auditSeq: 9, sameBytesSucceedFor: 2001 },
    pinCopies: { memory: 0, filesAndLogs: 0, canary: 2 },
    tampered: [
      {
        ...{
          what: "one byte of the PKCS#11 library",
          unsealed: false,
          tpmRc: "0x0000099d",
          verdict: "contraindicated",
        },
        answers: [{ command: "TPM2_Unseal", rc: "0x0000099d", text: "a policy check failed" }],
        reasons: [{ code: "event", item: `library ${LIBRARY}`, expected: "ab".repeat(32), got: "cd".repeat(32) }],
        bootPcrsEqual: true,
      },
    ],
    cleanAgain: { unsealed: true, verdict: "affirming" },
  };

  test("it says what was measured, what the TPM answered, and that all of it held", () => {
    const text = renderStory(result);
    for (const line of [
      /demo image +1\.2/,
      /boot +firmware, UKI.* +0-7, 9, 11 +18\.00/,
      /measuring +configuration.* +13 +1\.50/,
      /not proven: software-tpm \(/,
      /PIN stayed sealed, verdict contraindicated, boot PCRs equal/,
      /TPM2_Unseal answered 0x0000099d: a policy check failed/,
      /event library .*: expected abababababababab\.\.\., got cdcdcdcdcdcdcdcd\.\.\./,
      /copies in all guest memory: 0; in disks, cabinet and logs: 0; of the planted canary: 2/,
      /\nAll of it held\.\n/,
    ])
      expect(text).toMatch(line);
    expect(text).not.toMatch(/DIFFERS|NO\b|NOT|cccccccc/); // PCR 0 has no prediction and is not in the table
  });

  test.each([
    ["a released PIN", { tampered: result.tampered.map((boot) => ({ ...boot, unsealed: true })) }, /PIN RELEASED/],
    [
      "a signature",
      { signature: { ...result.signature, by: [{ client: "c", key: "k", verified: false }] } },
      /DOES NOT VERIFY/,
    ],
    ["a PCR", { pcrs: [{ pcr: 4, expected: "aa", got: "bb" }] }, /bb DIFFERS/],
    ["a prediction", { predictionHolds: { sha256: true, sha384: false } }, /sha384 DIFFERS/],
    ["a stranger who was served", { denial: { ...result.denial, denied: false } }, /was refused: NO/],
    [
      "a clean boot that stayed sealed",
      { cleanAgain: { unsealed: false, verdict: "contraindicated" } },
      /unsealed: NO/,
    ],
  ])("%s that should not be stands out, and not all of it held", (_, change, shown) => {
    const text = renderStory({ ...result, ...change, ok: false } as StoryResult);
    expect(text).toMatch(shown);
    expect(text).toMatch(/\nNOT all of it held\.\n/);
  });
});

describe("the stand-in HSM", () => {
  test("a PIN has 16 characters without look-alikes, and no two are alike", () => {
    const pins = Array.from({ length: 200 }, () => Buffer.from(randomPin()).toString("latin1"));
    for (const pin of pins) expect(pin).toMatch(/^[A-HJ-NP-Za-km-z2-9]{16}$/);
    expect(new Set(pins).size).toBe(pins.length);
  });

  test("I7: its private keys are sensitive, were never extractable, and only sign", async () => {
    const pin = randomPin();
    const place = join(directory, "token");
    const token = await makeDemoToken(place, "signing", pin);
    expect(Object.keys(token.keys)).toEqual(["release-ec", "document-rsa"]);
    expect(token.serial).toMatch(/^[0-9a-f]{16}$/);
    const { stdout } = await run(
      "pkcs11-tool",
      [
        ...["--module", SOFTHSM_LIBRARY, "--token-label", "signing", "--login", "--pin", Buffer.from(pin).toString()],
        ...["--list-objects", "--type", "privkey"],
      ],
      { env: { ...process.env, SOFTHSM2_CONF: join(place, "softhsm2-host.conf") } },
    );
    const usages = [...stdout.matchAll(/Usage: +(.*)/g)].map(([, usage]) => usage);
    const access = [...stdout.matchAll(/Access: +(.*)/g)].map(([, found]) => found);
    expect(usages).toEqual(["sign", "sign"]);
    expect(access).toEqual(Array(2).fill("sensitive, always sensitive, never extractable, local"));
  });

  test("I4: the PIN is in none of the token's files, and these are all that the cabinet needs", async () => {
    const pin = randomPin();
    const place = join(directory, "token2");
    const token = await makeDemoToken(place, "signing", pin);
    const onDisk = readdirSync(place, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
    for (const { parentPath, name } of onDisk)
      expect(readFileSync(join(parentPath, name)).includes(Buffer.from(pin)), name).toBe(false);
    expect(token.files.length).toBe(onDisk.length - 1); // all but the host's configuration
    for (const { path } of token.files) expect(path.startsWith(`${TOKEN_DIRECTORY}/`)).toBe(true);
    expect(parseBundle(encodeBundle(token.files.map(({ path, bytes }) => [path, bytes])))).toHaveLength(
      token.files.length,
    );
  });

  test("I4: a token that cannot be made is a typed error that does not name the PIN", async () => {
    const pin = randomPin();
    const failure = await makeDemoToken(join(directory, "token3"), "x".repeat(40), pin).then(
      () => null,
      (error: Error) => error,
    );
    expect(failure).toMatchObject({ code: "ERR_IMAGE_SOURCE" });
    expect(failure?.message).not.toContain(Buffer.from(pin).toString());
  });
});
