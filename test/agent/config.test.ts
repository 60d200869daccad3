import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { parseConfig } from "../../agent/config.ts";
import { IronclawError, utf8 } from "../../policy/index.ts";

/** The configuration of every image. */
const bytes = new Uint8Array(
  readFileSync(resolve(import.meta.dirname, "../../vm-images/guest/etc/ironclaw/agent.json")),
);
const document = JSON.parse(new TextDecoder().decode(bytes)) as Record<string, unknown>;
const FIELDS = Object.keys(document);

const parseDocument = (changed: unknown) => parseConfig(utf8(JSON.stringify(changed)));

describe("the agent's configuration", () => {
  test("that of the image is read as it stands", () => {
    expect(parseConfig(bytes)).toEqual({ ...document, attestationKey: "p256", system: "image" });
    expect(FIELDS).toHaveLength(14);
  });

  test("I9: the attestation key is P-256, or RSA-2048 where that is asked for, and no other", () => {
    for (const attestationKey of ["p256", "rsa2048"] as const) {
      expect(parseDocument({ ...document, attestationKey }).attestationKey).toBe(attestationKey);
    }
    for (const attestationKey of ["p384", "", null, 2048, ["p256"]]) {
      expect(() => parseDocument({ ...document, attestationKey })).toThrow("attestationKey:");
    }
  });

  test("I9: of the package it says that the system is no image, and there is no third word", () => {
    const installed = readFileSync(resolve(import.meta.dirname, "../../vm-images/debian/agent.json"));
    expect(parseConfig(new Uint8Array(installed)).system).toBe("installed");
    for (const system of ["release", "", null, true])
      expect(() => parseDocument({ ...document, system })).toThrow("system:");
  });

  test.each(FIELDS)("I10: without %s it is refused by that name", (field) => {
    const { [field]: _, ...rest } = document;
    expect(() => parseDocument(rest)).toThrow(expect.objectContaining({ code: "ERR_CONFIG_INVALID" }));
    expect(() => parseDocument(rest)).toThrow(`${field}:`);
  });

  test.each(FIELDS)("I10: with another kind of value in %s it is refused by that name", (field) => {
    const good: readonly unknown[] = { stateVolume: [true], store: [null] }[field] ?? [];
    for (const value of [null, 7, [], {}, true, ""].filter((value) => !good.includes(value))) {
      expect(() => parseDocument({ ...document, [field]: value })).toThrow(`${field}:`);
    }
  });

  test("I10: a field that is not known is refused by name: no setting is ignored", () => {
    expect(() => parseDocument({ ...document, pin: "1234" })).toThrow(/pin/);
    expect(() => parseDocument({ ...document, pin: "1234" })).not.toThrow(/1234/);
  });

  test("I10: all findings are told at once", () => {
    expect(() => parseDocument({ ...document, cabinet: 1, scopes: "relative", agentPcr: 16 })).toThrow(
      /(?=.*cabinet)(?=.*scopes)(?=.*agentPcr)/,
    );
  });

  test.each([0, 12, 14, 16, 23, 13.5, "13"])("I2: PCR %j is not the agent's", (agentPcr) => {
    expect(() => parseDocument({ ...document, agentPcr })).toThrow(/agentPcr/);
  });

  test.each(["relative", "./x", "", "\0", "/a\0b"])("I10: the path %j is refused", (path) => {
    for (const field of FIELDS.filter((name) => !["version", "agentPcr", "tcti", "stateVolume"].includes(name))) {
      expect(() => parseDocument({ ...document, [field]: path })).toThrow(`${field}:`);
    }
  });

  test("I10: a field given twice is refused, so that no two readers see two configurations", () => {
    const twice = new TextDecoder().decode(bytes).replace("{", '{ "tcti": "device:/dev/tpm9",');
    expect(() => parseConfig(utf8(twice))).toThrow(expect.objectContaining({ code: "ERR_POLICY_MALFORMED" }));
  });

  test("I10: any bytes and any mutation of a good configuration are read or end in a typed error", () => {
    const mutated = fc
      .tuple(fc.nat(bytes.length - 1), fc.integer({ min: 1, max: 255 }))
      .map(([at, bits]) => bytes.map((byte, index) => (index === at ? byte ^ bits : byte)));
    fc.assert(
      fc.property(fc.oneof(fc.uint8Array({ maxLength: 400 }), mutated, fc.json().map(utf8)), (input) => {
        try {
          expect(Object.keys(parseConfig(input)).sort()).toEqual([...FIELDS, "attestationKey", "system"].sort());
        } catch (error) {
          if (!(error instanceof IronclawError)) throw error;
          expect(["ERR_CONFIG_INVALID", "ERR_POLICY_MALFORMED"]).toContain(error.code);
          expect(error.exitCode).toBe(3);
        }
      }),
      { numRuns: 400 },
    );
  });
});
