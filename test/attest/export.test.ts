import { createPublicKey, X509Certificate } from "node:crypto";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type Evidence, encodeEkCertificates, measureExtraData } from "../../attest/evidence.ts";
import { exportEvidence } from "../../attest/export.ts";
import { encodeTpmPublic } from "../../attest/tpm-structures.ts";
import { fromHex, toHex, utf8 } from "../../policy/index.ts";
import { makeEvidence, nonce, softEccKey, softRsaKey } from "../support/evidence-maker.ts";

const { evidence } = await makeEvidence();

function exported(changes: Partial<Evidence> = {}, asked: Uint8Array | null = null) {
  const { files, malformed } = exportEvidence({ ...evidence, ...changes }, asked);
  const text = (path: string) => new TextDecoder().decode(files.get(path));
  return { files, malformed, text };
}

/** Section, the file with its bytes, and the files that are made of it. */
const sections: readonly (readonly [field: keyof Evidence, raw: string, made: readonly string[]])[] = [
  ["quote", "quote.bin", []],
  ["signature", "signature.bin", []],
  ["ak", "ak.tpmt", ["ak.pem"]],
  ["pcrs", "pcrs.cbor", ["pcrs.bin", "pcrs.serialized", "pcrs.json"]],
  ["firmwareLog", "firmware-log.bin", []],
  ["agentLog", "agent-log.cbor", ["agent-log.jsonl"]],
  ["ekCertificates", "ek-certificates.cbor", ["ek-chain.pem"]],
  ["claims", "claims.cbor", ["claims.json", "nonce.hex", "extra-data.hex"]],
];

describe("an exported report", () => {
  it("I9: has every section byte for byte", () => {
    const { files, malformed } = exported();
    expect(malformed).toEqual([]);
    for (const [field, raw] of sections) expect(files.get(raw)).toEqual(evidence[field]);
    expect(files.get("ak.tpm2b")).toEqual(Uint8Array.of(0, evidence.ak.length, ...evidence.ak));
  });

  it("I9: says what the quote should carry, not what it does", () => {
    const other = new Uint8Array(32).fill(9);
    expect(exported().text("nonce.hex")).toBe(`${toHex(nonce)}\n`);
    expect(exported().text("extra-data.hex")).toBe(`${toHex(measureExtraData(nonce, evidence))}\n`);
    expect(exported({}, other).text("extra-data.hex")).toBe(`${toHex(measureExtraData(other, evidence))}\n`);
    const changed = { ...evidence, firmwareLog: utf8("another log") };
    expect(exported(changed).text("extra-data.hex")).toBe(`${toHex(measureExtraData(nonce, changed))}\n`);
  });

  it("has the claims and both logs as JSON that reads back, in characters that no terminal acts upon", async () => {
    const machine = "evil \u001b[2J\u009b\u202e\u2066 name é";
    const made = await makeEvidence({ asserted: { machine, epoch: (1n << 64n) - 1n } });
    const { files, text } = exported(made.evidence);
    expect(JSON.parse(text("claims.json"))).toMatchObject({
      nonce: toHex(nonce),
      asserted: { machine, epoch: "18446744073709551615", probeWitnessed: { ptrace: 1 } },
      measured: { closure: { "/usr/lib/ironclaw/shim": expect.stringMatching(/^[0-9a-f]{64}$/) } },
    });
    const records = text("agent-log.jsonl")
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as object);
    expect(records[0]).toMatchObject({ recnum: 0, pcr: 13, content_type: "ironclaw", content: { kind: "config" } });
    expect(JSON.parse(text("pcrs.json"))).toMatchObject({ bank: "sha256", values: { 13: expect.any(String) } });
    for (const path of ["claims.json", "agent-log.jsonl", "pcrs.json", "README.txt"]) {
      expect([...(files.get(path) ?? [])].every((byte) => byte === 10 || (byte >= 32 && byte < 127))).toBe(true);
    }
  });

  it("has either kind of attestation key as a public key that other libraries read", async () => {
    for (const key of [await softEccKey(), await softRsaKey()]) {
      const { publicArea } = key;
      const read = createPublicKey(exported({ ak: publicArea }).text("ak.pem"));
      const { n, y } = read.export({ format: "jwk" });
      expect(toHex(publicArea).endsWith(Buffer.from(n ?? y ?? "", "base64url").toString("hex"))).toBe(true);
    }
  });

  it("has the EK's chain as it was sent, one file each and together", () => {
    const ders = [utf8("not a certificate"), utf8("nor this one")];
    const { files, text } = exported({ ekCertificates: encodeEkCertificates(ders) });
    expect([0, 1].map((index) => files.get(`ek-certificates/${index}.der`))).toEqual(ders);
    expect(text("ek-chain.pem").match(/BEGIN CERTIFICATE/g)).toHaveLength(2);
    expect(() => new X509Certificate(text("ek-chain.pem"))).toThrow(); // nothing was verified
  });

  it.each(sections)("I10: %s that is malformed is there as %s alone, and is named", (field, raw, made) => {
    const bad = fromHex("ff00ff");
    const { files, malformed, text } = exported({ [field]: bad });
    expect(files.get(raw)).toEqual(bad);
    expect([...files.keys()].filter((path) => made.includes(path))).toEqual([]);
    expect(malformed).toHaveLength(made.length === 0 ? 0 : 1);
    if (made.length === 0) return; // other tools are the judges of what is only bytes here
    expect(text("README.txt")).toContain(malformed[0]?.code);
    expect(text("README.txt").includes("tpm2_checkquote")).toBe(["agentLog", "ekCertificates"].includes(field));
  });

  it("I9: a key that is unfit to attest is no public key file, only bytes", async () => {
    const unrestricted = await softEccKey({ attributes: 0x40072 });
    const short = encodeTpmPublic({
      ...{ kind: "rsa", nameAlg: 0x000b, attributes: 0x50472, authPolicy: new Uint8Array(), symmetric: null },
      ...{ scheme: { scheme: 0x0014, hash: 0x000b }, keyBits: 2048, exponent: 0, modulus: new Uint8Array(256) },
    });
    for (const ak of [unrestricted.publicArea, short]) {
      const { files, malformed } = exported({ ak });
      expect(files.get("ak.tpmt")).toEqual(ak);
      expect(files.has("ak.pem")).toBe(false);
      expect(malformed).toHaveLength(1);
    }
  });

  it("I10: whatever bytes the sections are, the export ends, and its paths stay inside", () => {
    const section = fc.oneof(fc.uint8Array({ maxLength: 60 }), fc.constantFrom(...Object.values(evidence)));
    const any = fc.record({
      ...{ quote: section, signature: section, ak: section, pcrs: section },
      ...{ firmwareLog: section, agentLog: section, ekCertificates: section, claims: section },
    });
    fc.assert(
      fc.property(any, (sectionBytes) => {
        const { files } = exportEvidence(sectionBytes, null);
        for (const path of files.keys()) expect(path).toMatch(/^(?:ek-certificates\/\d\.der|[a-zA-Z0-9.-]+)$/);
      }),
    );
  });
});
