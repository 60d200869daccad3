import { describe, expect, it } from "vitest";
import { EvidenceRefused } from "../../attest/errors.ts";
import { type Evidence, encodeEvidence, measureEvidence, parseEvidence } from "../../attest/evidence.ts";
import { verifyEvidence } from "../../attest/verify.ts";
import {
  type CborKey,
  type CborValue,
  concatBytes,
  decodeCbor,
  encodeCbor,
  IronclawError,
  sha256,
} from "../../policy/index.ts";
import { makeEvidence } from "../support/evidence-maker.ts";

const fieldOf = {
  ...{ quote: "quote", signature: "signature", ak: "ak", pcrs: "pcrs", claims: "claims" },
  ...{ "firmware-log": "firmwareLog", "agent-log": "agentLog", "ek-certificates": "ekCertificates" },
} as const satisfies Record<string, keyof Evidence>;

describe("the envelope", () => {
  type Collection = ReadonlyMap<CborKey, CborValue>;
  const names = ["quote", "signature", "ak", "pcrs", "firmware-log", "agent-log", "ek-certificates", "claims"] as const;
  const caps: Readonly<Record<(typeof names)[number], number>> = {
    ...{ quote: 1 << 10, signature: 1 << 10, ak: 1 << 10, pcrs: 4 << 10 },
    ...{ "firmware-log": 1 << 20, "agent-log": 1 << 20, "ek-certificates": 64 << 10, claims: 256 << 10 },
  };
  const collectionOf = async (): Promise<Collection> => {
    const { evidence } = await makeEvidence();
    return decodeCbor(encodeEvidence(evidence)) as Collection;
  };
  const refuses = (collection: Collection) =>
    expect(() => parseEvidence(encodeCbor(collection))).toThrow(
      expect.objectContaining({ code: "ERR_EVIDENCE_MALFORMED" }),
    );

  it("I9: has the sections of this table, the profile, and nothing else", async () => {
    expect([...(await collectionOf()).keys()].sort()).toEqual(["__cmwc_t", ...names].sort());
  });

  describe.each(names)("the section %s", (name) => {
    const withRecord = async (change: (record: readonly CborValue[]) => CborValue) => {
      const collection = await collectionOf();
      return new Map([...collection, [name, change(collection.get(name) as readonly CborValue[])]]);
    };

    it("I9: left out is refused", async () => {
      refuses(new Map([...(await collectionOf())].filter(([key]) => key !== name)));
    });

    it("I9: under another name is refused", async () => {
      const renamed = [...(await collectionOf())].map(
        ([key, value]) => [key === name ? `${name}s` : key, value] as const,
      );
      refuses(new Map(renamed));
    });

    it("I9: there twice is refused, in whatever order", async () => {
      // No encoder writes such a map: the entry's bytes are put in once more by hand.
      const collection = await collectionOf();
      const entry = concatBytes(encodeCbor(name), encodeCbor(collection.get(name) ?? null));
      const whole = encodeCbor(collection);
      const at = Buffer.from(whole).indexOf(entry);
      const doubled = concatBytes(Uint8Array.of(0xaa), whole.subarray(1, at), entry, whole.subarray(at));
      expect(() => parseEvidence(doubled)).toThrow(/map key/);
      expect(() => parseEvidence(concatBytes(Uint8Array.of(0xaa), whole.subarray(1), entry))).toThrow(/map key/);
    });

    it.each(names.filter((other) => other !== name))("I9: with the record of %s is refused", async (other) => {
      const collection = await collectionOf();
      refuses(new Map([...collection, [name, collection.get(other) ?? null]]));
    });

    it("I9: as another kind of record is refused", async () => {
      const changes: readonly ((record: readonly CborValue[]) => CborValue)[] = [
        ([, bytes = null, indicator = null]) => ["text/plain", bytes, indicator],
        ([type = null, bytes = null, indicator = null]) => [`${type} `, bytes, indicator],
        ([type = null, , indicator = null]) => [type, "text", indicator],
        ([type = null, , indicator = null]) => [type, null, indicator],
        ([type = null, bytes = null]) => [type, bytes, 8],
        ([type = null, bytes = null]) => [type, bytes, "4"],
        ([type = null, bytes = null]) => [type, bytes],
        (record) => [...record, 4],
        (record) => [record],
        ([, bytes = null]) => bytes,
        () => [],
        () => new Map(),
        () => null,
      ];
      for (const change of changes) refuses(await withRecord(change));
    });

    it("I10: is taken up to its cap, and refused one byte above", async () => {
      const sized = (size: number) =>
        withRecord(([type = null, , indicator = null]) => [type, new Uint8Array(size), indicator]);
      expect(() => parseEvidence(encodeCbor([]))).toThrow(IronclawError);
      const longest = parseEvidence(encodeCbor(await sized(caps[name])));
      expect(Object.values(longest).map(({ length }) => length)).toContain(caps[name]);
      const above = encodeCbor(await sized(caps[name] + 1));
      expect(() => parseEvidence(above)).toThrow(expect.objectContaining({ code: "ERR_EVIDENCE_MALFORMED" }));
    });

    it("I9: with one byte more, less or other does not verify", async () => {
      const { evidence, challenge, enrolment } = await makeEvidence();
      const field = fieldOf[name];
      const bytes = evidence[field];
      const changes = [
        concatBytes(bytes, Uint8Array.of(0)),
        bytes.subarray(0, -1),
        bytes.map((byte, index) => (index === bytes.length >> 1 ? byte ^ 1 : byte)),
        new Uint8Array(),
      ];
      for (const changed of changes) {
        await expect(verifyEvidence({ ...evidence, [field]: changed }, challenge, enrolment, null)).rejects.toThrow(
          EvidenceRefused,
        );
      }
    });
  });

  it("I9: of another profile, or with another entry, is refused", async () => {
    const collection = await collectionOf();
    for (const profile of ["tag:ironclaw,2026:evidence/2", "tag:ironclaw,2026:evidence/3", "", null, 3])
      refuses(new Map([...collection, ["__cmwc_t", profile]]));
    refuses(new Map([...collection].filter(([key]) => key !== "__cmwc_t")));
    for (const key of ["more", 1, -1]) refuses(new Map([...collection, [key, ["text/plain", new Uint8Array(), 4]]]));
  });

  it("I8: its digest is that of the bytes that came, and never of another report's sections", async () => {
    const report = encodeEvidence((await makeEvidence()).evidence);
    const parsed = parseEvidence(report);
    expect(measureEvidence(parsed)).toEqual(sha256(report));
    expect(measureEvidence({ ...parsed })).toEqual(sha256(report));
    const other = { ...parsed, claims: parsed.claims.map((byte, at) => (at === 9 ? byte ^ 1 : byte)) };
    expect(measureEvidence(other)).toEqual(sha256(encodeEvidence(other)));
    expect(measureEvidence(other)).not.toEqual(sha256(report));
    expect(() => Object.assign(parsed, { claims: other.claims })).toThrow(TypeError);
    report.fill(0);
    expect(measureEvidence(parsed)).toEqual(sha256(encodeEvidence(parsed)));
  });
});
