import { constants, createPublicKey, publicEncrypt } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { KeyPlace } from "../../agent/shims/domain-shim.ts";
import { sha256Hex, utf8 } from "../../policy/index.ts";
import { asked, type LaunchChecks, openLaunchChecks, reasonOf, reasonsOf } from "../support/launch-checks.ts";
import { BENCH_MODULE, changeModule } from "../support/launch-documents.ts";
import { LAUNCH_PIN, type LaunchBench } from "../support/launch-fixture.ts";
import { TPM_CC } from "../support/tpm-bus.ts";

let checks: LaunchChecks;
let bench: LaunchBench;
beforeAll(async () => {
  checks = await openLaunchChecks();
  ({ bench } = checks);
});
afterAll(() => bench[Symbol.asyncDispose]());

const boot: LaunchChecks["boot"] = (...args) => checks.boot(...args);
const expectRefused: LaunchChecks["expectRefused"] = (...args) => checks.expectRefused(...args);

/** As SoftHSM takes it: OAEP with SHA-1. */
function sealedFor(spki: Uint8Array, place: KeyPlace) {
  const key = createPublicKey({ key: Buffer.from(spki), format: "der", type: "spki" });
  const options = { key, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: "sha1" };
  const ciphertext = new Uint8Array(publicEncrypt(options, utf8("a message")));
  return { ...place, mechanism: 0x9n, oaep: { hash: 0x220n, mgf: 1n, label: new Uint8Array() }, ciphertext };
}

describe("token and keys", () => {
  test.each([
    ["a token with another serial number", { policy: "0000000000000000", sealed: "0000000000000000" }],
    ["a PIN that was sealed for another token", { policy: null, sealed: "0000000000000000" }],
  ])("I11: %s refuses before the PIN is asked for", async (_, serials) => {
    const machine = await bench.provision({
      label: { tokenSerial: serials.sealed },
      policy: (draft) => {
        const { label, serial } = bench.token;
        draft.tokens = { [label]: { module: BENCH_MODULE, label, serial: serials.policy ?? serial, pin: "hsm-pin" } };
      },
    });
    await using booted = await boot({}, machine);
    expect(reasonsOf(booted)).toHaveLength(1);
    expect(reasonOf(booted, "hsm-absent", bench.token.label)?.got).toContain(bench.token.serial);
    expect(asked(booted, TPM_CC.unseal)).toBe(0);
    expect(booted.calls).not.toContain("login");
    expect(booted.channelLeft()).toEqual(new Uint8Array());
    await expectRefused(booted, machine);
  });

  test("I11: a wrong PIN is tried once, and the launch ends refused", async () => {
    const machine = await bench.provision({ pin: `${LAUNCH_PIN}-not` });
    await using booted = await boot({}, machine);
    expect(reasonsOf(booted)).toEqual([{ code: "pin-refused", item: bench.token.label, expected: "0x0", got: "0xa0" }]);
    expect(booted.calls.filter((call) => call === "login")).toHaveLength(1);
    expect(booted.calls.at(-1)).toBe("login");
    expect(asked(booted, TPM_CC.unseal)).toBe(1);
    expect(booted.channelLeft()).toEqual(new Uint8Array());
    await expectRefused(booted, machine);
  });

  const withKey = (name: string, spki: Uint8Array, does: "sign" | "decrypt" | "unwrap" = "sign") =>
    bench.provision({
      policy: (draft) => {
        draft.keys = { ...draft.keys, [name]: { spki: `sha256:${sha256Hex(spki)}`, does } };
      },
    });

  test("I6: a key of the policy that the token does not hold refuses", async () => {
    const machine = await withKey("lost", utf8("no such key"));
    await using booted = await boot({}, machine);
    expect(reasonsOf(booted)).toEqual([
      {
        code: "key-unknown",
        item: "lost",
        expected: `exactly one object on launch-bench with sha256:${sha256Hex(utf8("no such key"))}`,
        got: "0",
      },
    ]);
    expect(booted.calls).not.toContain("sign");
    await expectRefused(booted, machine);
  });

  test("I7: a key that may leave the token is not served", async () => {
    const machine = await withKey("open", bench.addKey({ label: "open", id: "11", kind: "extractable" }));
    await using booted = await boot({}, machine);
    expect(reasonsOf(booted)).toEqual(
      expect.arrayContaining([
        { code: "key-attributes", item: "open extractable", expected: "false", got: "true" },
        { code: "key-attributes", item: "open neverExtractable", expected: "true", got: "false" },
      ]),
    );
    expect(booted.record.keys).toEqual([]);
    expect(booted.calls).not.toContain("sign");
    await expectRefused(booted, machine);
  });

  test("I6: two objects with the key that a name stands for refuse", async () => {
    const first = bench.addKey({ label: "twin", id: "12", kind: "imported" });
    const again = await withKey("twin", first);
    await using alone = await boot({}, again);
    // One of it is found, and is no key to serve either: it came from outside.
    expect(reasonOf(alone, "key-attributes", "twin alwaysSensitive")).toMatchObject({ got: "false" });
    bench.addKey({ label: "twin", id: "13", kind: "imported" });
    await using booted = await boot({}, again);
    expect(reasonOf(booted, "key-unknown", "twin")?.got).toBe("2");
    await expectRefused(booted, again);
  });

  test("I7: a key that is to do what the token does not let it do is not served", async () => {
    const machine = await withKey("document-rsa", bench.token.keys["document-rsa"] ?? new Uint8Array(), "unwrap");
    await using booted = await boot({}, machine);
    expect(reasonsOf(booted)).toEqual([
      { code: "key-attributes", item: "document-rsa unwrap", expected: "true", got: "false" },
    ]);
    await expectRefused(booted, machine);
  });

  test.each(["decrypt", "unwrap"] as const)(
    "I7: a key that does %s is proven by that operation, with every shim, and works for no other",
    async (does) => {
      const spki = bench.addKey({ label: `for-${does}`, id: does === "decrypt" ? "71" : "72", kind: does });
      const machine = await bench.provision({
        policy: (draft) => {
          changeModule(draft, { spares: 1 });
          draft.keys = { ...draft.keys, [does]: { spki: `sha256:${sha256Hex(spki)}`, does } };
        },
      });
      await using booted = await boot({}, machine);
      expect(booted.record.state.kind).toBe("serving");
      for (const { shim, places } of booted.launched?.tokens[0]?.shims ?? []) {
        const place = places.get(does);
        if (place === undefined) throw new Error(does);
        const request = { ...place, mechanism: 0x40n, pss: null, data: utf8("a message") };
        await expect(shim.sign(request)).rejects.toMatchObject({ rv: 0x68n });
        const decrypted = shim.decrypt(sealedFor(spki, place));
        if (does === "decrypt") expect(await decrypted).toEqual(utf8("a message"));
        else await expect(decrypted).rejects.toMatchObject({ rv: 0x68n });
      }
      expect(booted.launched?.tokens[0]?.shims).toHaveLength(2);
    },
  );

  test("I3: a shim that ends while a key that decrypts is proven ends the launch refused", async () => {
    const own = bench.addKey({ label: "decrypt-own", id: "73", kind: "decrypt" });
    const machine = await withKey("decrypt-own", own, "decrypt");
    await using booted = await boot(
      {
        onShimStep: (step, child) => {
          if (step === "decrypt") child?.kill("SIGKILL");
        },
      },
      machine,
    );
    expect(reasonsOf(booted).map(({ code }) => code)).toEqual(["ERR_SHIM_GONE"]);
    expect(booted.calls).toContain("decrypt");
    await expectRefused(booted, machine);
  });
});
