import { readFileSync } from "node:fs";
import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import {
  type AttestationResult,
  AttestError,
  assuranceClasses,
  encodeAttestationResult,
  encodeEvidence,
  everyNotProven,
  notProvenFor,
  parseAttestationResult,
  trustClaims,
  trustVectorSchema,
} from "../../attest/index.ts";
import { sha256Hex, utf8 } from "../../policy/index.ts";
import { judge } from "../support/appraisal.ts";
import { contraindicatedRows, refusedLaunch, warningRows } from "../support/appraisal-rows.ts";
import { makeEvidence } from "../support/evidence-maker.ts";
import { damaged, expectTyped } from "../support/typed-or-same.ts";

let result: AttestationResult;
beforeAll(async () => {
  result = await judge(refusedLaunch);
});

describe("an attestation result", () => {
  it("I9: names machine, class, launch, release, the digests of policy and report, and its time", async () => {
    const good = await judge({});
    expect(good).toMatchObject({
      ...{ version: 2, tier: "affirming", findings: [], machine: "m1", assurance: "provider-ek", launch: "serving" },
      ...{ release: "test release", policy: { name: "default" }, at: "2026-06-01T00:00:00.000Z" },
    });
    expect(good.evidence).toMatch(/^[0-9a-f]{64}$/);
    expect(good.pcrs).toHaveLength(13);
  });

  it("I9: the report's digest is that of the bytes that were sent", async () => {
    const { evidence, challenge, enrolment } = await makeEvidence();
    const { verifyEvidence } = await import("../../attest/index.ts");
    const verified = await verifyEvidence(evidence, challenge, enrolment, null);
    expect(verified.sha256).toBe(sha256Hex(encodeEvidence(evidence)));
  });

  it("is stored and read again unchanged, whatever was found", async () => {
    for (const [, , setting] of [...contraindicatedRows.slice(0, 6), ...warningRows]) {
      const each = await judge(setting);
      expect(parseAttestationResult(encodeAttestationResult(each))).toEqual(each);
    }
  });

  it.each<[string, object]>([
    ["version 1", { version: 1 }],
    ["another tier", { tier: "none" }],
    ["an unknown field", { trusted: true }],
    ["a vector without a claim", { vector: {} }],
    ["a claim out of range", { vector: { hardware: 128 } }],
    ["a PCR that no TPM has", { pcrs: [{ pcr: 24, expected: null, got: "00" }] }],
    ["a digest in upper case", { evidence: "AA".repeat(32) }],
    ["a finding of tier affirming", { findings: [{ tier: "affirming", code: "", item: "", expected: "", got: "" }] }],
  ])("I10: %s is refused with a typed error", (_title, changes) => {
    const text = utf8(JSON.stringify({ ...result, ...changes }));
    expect(() => parseAttestationResult(text)).toThrow(AttestError);
  });

  it("I10: without any one of its fields it is refused", () => {
    for (const field of Object.keys(result)) {
      const rest = Object.fromEntries(Object.entries(result).filter(([name]) => name !== field));
      expect(() => parseAttestationResult(utf8(JSON.stringify(rest)))).toThrow(`${field}: expected`);
    }
  });

  it("I10: damaged bytes end in a result or in a typed error", () => {
    fc.assert(
      fc.property(damaged(fc.constant(encodeAttestationResult(result))), (bytes) =>
        expectTyped(() => parseAttestationResult(bytes)),
      ),
    );
    expectTyped(() => parseAttestationResult(Uint8Array.of(0xff)));
  });
});

describe("the trustworthiness vector", () => {
  it.each([
    ["software-tpm", 32, 32],
    ["provider-ek", 32, 32],
    ["hardware-ek", 2, 2],
  ] as const)(
    "I9: of an honest machine of class %s has hardware %i, and never vouches for memory",
    async (assurance, hardware, storage) => {
      const { vector, tier } = await judge({ assurance, policy: { minAssurance: "software-tpm" } });
      expect([tier, vector]).toEqual([
        "affirming",
        {
          ...{ "instance-identity": 2, configuration: 2, executables: 3, "file-system": 2, hardware },
          ...{ "runtime-opaque": 0, "storage-opaque": storage, "sourced-data": 0 },
        },
      ]);
    },
  );

  it("I9: every finding shows in it: 96 where the verdict is contraindicated, 32 for each warning", async () => {
    for (const [, code, setting] of contraindicatedRows) {
      expect({ code, worst: Math.max(...Object.values((await judge(setting)).vector)) }).toEqual({ code, worst: 96 });
    }
    for (const [, code, setting] of warningRows) {
      const { vector } = await judge({ assurance: "hardware-ek", ...setting });
      expect({ code, worst: Math.max(...Object.values(vector)) }).toEqual({ code, worst: 32 });
    }
  });

  it("its schema has the claims of the list, in their order", () => {
    expect(Object.keys(trustVectorSchema.shape)).toEqual([...trustClaims]);
  });
});

describe("what a result does not prove", () => {
  it.each(assuranceClasses)(
    "I9: every result of class %s begins with the paragraph of its class",
    async (assurance) => {
      const { notProven } = await judge({ assurance });
      expect(notProven).toEqual(notProvenFor(assurance));
      expect(notProven.map(({ code }) => code)).toEqual([
        ...[assurance, "hsm", "vendor-code", "hypervisor", "passthrough", "after-quote", "asserted", "self-reported"],
      ]);
    },
  );

  it("stands in the document word by word, in the same order and with nothing else", () => {
    const document = readFileSync(new URL("../../attest/APPRAISAL.md", import.meta.url), "utf8");
    const section = document.split("\n## ").find((part) => part.startsWith("5. What no result proves")) ?? "";
    const listed = [...section.matchAll(/^\* `([a-z-]+)`: (.+)$/gm)].map(([, code, text]) => ({ code, text }));
    expect(listed).toEqual(everyNotProven);
  });
});
