import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { celRecord, encodeCel, parseCel, renderCelJsonLines, replayCel } from "../../attest/cel.ts";
import { type Claims, imageVariants, keyPurposes, launchStates } from "../../attest/claims.ts";
import { encodeClaims, parseClaims } from "../../attest/claims-codec.ts";
import { encodeContinuity, parseContinuity } from "../../attest/continuity.ts";
import { encodeEnrolment, parseEnrolment } from "../../attest/enrolment.ts";
import { EvidenceRefused } from "../../attest/errors.ts";
import {
  type Evidence,
  encodeEkCertificates,
  encodeEvidence,
  encodePcrs,
  measureEvidence,
  measureExtraData,
  parseEkCertificates,
  parseEvidence,
  parsePcrs,
} from "../../attest/evidence.ts";
import {
  encodeLaunchEvent,
  isLaunchEventKind,
  type LaunchEvent,
  launchEventDigests,
  parseLaunchEvent,
  predictAgentPcr,
} from "../../attest/launch-events.ts";
import {
  encodeTpmPublic,
  encodeTpmSignature,
  parseQuoteAttest,
  parseTpmPublic,
  parseTpmSignature,
} from "../../attest/tpm-structures.ts";
import { verifyEvidence } from "../../attest/verify.ts";
import {
  type CborKey,
  type CborValue,
  concatBytes,
  decodeCbor,
  encodeCbor,
  IronclawError,
  sha256,
  toHex,
  utf8,
} from "../../policy/index.ts";
import { attestationKeyTemplates } from "../../seal/tpm-templates.ts";
import { makeEnrolment, makeEvidence, servingEvents, softEccKey } from "../support/evidence-maker.ts";

const bytes = (length: number) => fc.uint8Array({ minLength: length, maxLength: length });
const text = fc.string({ unit: "grapheme", maxLength: 20 });
const anyEvent: fc.Arbitrary<LaunchEvent> = fc.record({
  kind: fc.constantFrom(...servingEvents().map(({ kind }) => kind), "violation" as const, "anchor" as const),
  name: text,
  sha256: bytes(32),
});
const counts = fc
  .uniqueArray(fc.tuple(text, fc.nat()), { selector: ([name]) => name, maxLength: 4 })
  .map((list) => new Map(list));

const anyClaims: fc.Arbitrary<Claims> = fc.record({
  nonce: bytes(32),
  ueid: bytes(33),
  software: fc.record({ name: text, version: text }),
  debugEnabled: fc.boolean(),
  measured: fc.record({
    launch: fc.constantFrom(...launchStates),
    policy: fc.option(bytes(32)),
    profile: fc.option(bytes(32)),
    library: fc.option(bytes(32)),
    closure: fc
      .uniqueArray(fc.tuple(text, bytes(32)), { selector: ([path]) => path, maxLength: 4 })
      .map((list) => new Map(list)),
  }),
  asserted: fc.record({
    machine: text,
    image: fc.record({ id: text, variant: fc.constantFrom(...imageVariants) }),
    reasons: fc.array(fc.record({ code: text, item: text, expected: text, got: text }), { maxLength: 3 }),
    unseal: fc.array(fc.record({ command: text, rc: text, text }), { maxLength: 3 }),
    tokens: fc
      .uniqueArray(
        fc.record({ name: text, label: text, serial: text, manufacturer: text, model: text, firmware: text }),
        { selector: ({ name }) => name, maxLength: 8 },
      )
      .map((list) => list.sort((a, b) => (a.name < b.name ? -1 : 1))),
    keys: fc.array(
      fc.record({
        name: text,
        token: text,
        spki: bytes(32).map(toHex),
        does: fc.constantFrom(...keyPurposes),
        attributes: fc.dictionary(fc.constantFrom("sign", "sensitive", "extractable"), fc.boolean(), {
          noNullPrototype: true,
        }),
      }),
      { maxLength: 3 },
    ),
    probeWitnessed: counts,
    violations: counts,
    audit: fc.record({ seq: fc.nat(), hash: bytes(32) }),
    epoch: fc.option(fc.bigInt(0n, (1n << 64n) - 1n)),
    shim: fc.option(
      fc.record({
        uid: fc.nat(),
        seccompFilters: fc.nat(),
        capabilities: text,
        namespaces: fc.array(text, { maxLength: 3 }),
      }),
    ),
  }),
  selfReported: fc.record({ probe: counts }),
});

const section = fc.uint8Array({ maxLength: 60 });
const anyEvidence: fc.Arbitrary<Evidence> = fc.record({
  quote: section,
  signature: section,
  ak: section,
  pcrs: section,
  firmwareLog: section,
  agentLog: section,
  ekCertificates: section,
  claims: section,
});

/** Every parser: what it accepts encodes back to the same bytes, and what it refuses ends in a typed error. */
function endsTyped(parse: (input: Uint8Array) => Uint8Array, sample: fc.Arbitrary<Uint8Array>): void {
  const mutated = fc
    .tuple(sample, fc.nat(), fc.integer({ min: 0, max: 255 }), fc.nat(3))
    .map(([valid, at, byte, cut]) =>
      valid.map((old, index) => (index === at % valid.length ? byte : old)).slice(0, valid.length - cut),
    );
  fc.assert(
    fc.property(fc.oneof(fc.uint8Array({ maxLength: 300 }), mutated), (input) => {
      try {
        expect(toHex(parse(input))).toBe(toHex(input));
      } catch (error) {
        if (!(error instanceof IronclawError)) throw error;
      }
    }),
    { numRuns: 500 },
  );
}

describe("codecs", () => {
  it("I10: claims", () => {
    fc.assert(
      fc.property(anyClaims, (claims) => {
        expect(parseClaims(encodeClaims(claims))).toEqual(claims);
      }),
      { numRuns: 200 },
    );
    endsTyped((input) => encodeClaims(parseClaims(input)), anyClaims.map(encodeClaims));
  });

  it("I10: the envelope", () => {
    fc.assert(
      fc.property(anyEvidence, (evidence) => {
        expect(parseEvidence(encodeEvidence(evidence))).toEqual(evidence);
      }),
    );
    endsTyped((input) => encodeEvidence(parseEvidence(input)), anyEvidence.map(encodeEvidence));
  });

  it("I10: launch events", () => {
    fc.assert(
      fc.property(anyEvent, (event) => {
        expect(parseLaunchEvent(encodeLaunchEvent(event))).toEqual(event);
      }),
    );
    endsTyped((input) => encodeLaunchEvent(parseLaunchEvent(input)), anyEvent.map(encodeLaunchEvent));
  });

  it("I10: the agent log", () => {
    const anyLog = fc
      .array(anyEvent, { maxLength: 5 })
      .map((events) => events.map((event, index) => celRecord(index, 13, event)));
    fc.assert(
      fc.property(anyLog, (records) => {
        expect(parseCel(encodeCel(records))).toEqual(records);
      }),
    );
    endsTyped((input) => encodeCel(parseCel(input)), anyLog.map(encodeCel));
  });

  it("I10: PCR values and EK certificates", () => {
    const anyPcrs = fc
      .uniqueArray(fc.tuple(fc.nat(23), bytes(32)), { selector: ([pcr]) => pcr })
      .map((list) => ({ bank: "sha256" as const, values: new Map(list) }));
    fc.assert(
      fc.property(anyPcrs, (pcrs) => {
        expect(parsePcrs(encodePcrs(pcrs))).toEqual(pcrs);
      }),
    );
    endsTyped((input) => encodePcrs(parsePcrs(input)), anyPcrs.map(encodePcrs));
    endsTyped(
      (input) => encodeEkCertificates(parseEkCertificates(input)),
      fc.array(section, { maxLength: 8 }).map(encodeEkCertificates),
    );
  });

  it("I10: TPM structures", async () => {
    const { publicArea, sign } = await softEccKey();
    const { evidence } = await makeEvidence();
    endsTyped((input) => encodeTpmPublic(parseTpmPublic(input)), fc.constant(publicArea));
    endsTyped((input) => encodeTpmSignature(parseTpmSignature(input)), fc.constant(await sign(utf8("x"))));
    const parseOnly = (input: Uint8Array) => {
      parseQuoteAttest(input);
      return input;
    };
    endsTyped(parseOnly, fc.constant(evidence.quote));
  });

  it("I10: enrolments", async () => {
    const enrolment = makeEnrolment(await softEccKey());
    expect(parseEnrolment(encodeEnrolment(enrolment))).toEqual(enrolment);
    const unrestricted = makeEnrolment(await softEccKey({ attributes: 0x40072 }));
    for (const bad of [
      unrestricted,
      { ...enrolment, akName: `000b${"00".repeat(32)}` },
      { ...enrolment, more: 1 },
      { ...enrolment, version: 2 },
    ]) {
      expect(() => parseEnrolment(utf8(JSON.stringify(bad)))).toThrow(IronclawError);
    }
    for (const bad of ["", "{}", "[1]", "null", '{"version":1,"version":1}'])
      expect(() => parseEnrolment(utf8(bad))).toThrow(IronclawError);
  });
});

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
    for (const profile of ["tag:ironclaw,2026:evidence/2", "tag:ironclaw,2026:evidence/4", "", null, 3])
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

  it("extraData of the worked example in EVIDENCE.md is what is computed", () => {
    const ascii = (value: string) => utf8(value);
    const example = {
      ak: ascii("ak"),
      claims: ascii("claims"),
      agentLog: ascii("agent-log"),
      firmwareLog: ascii("firmware-log"),
      ekCertificates: ascii("ek-certificates"),
    };
    const nonce = Uint8Array.from({ length: 32 }, (_, index) => index);
    expect(toHex(measureExtraData(nonce, example))).toBe(
      "6d50bc3322bf115e6ab25508eabcdfbed666e4a61c31f1356b78e38597db6be0",
    );
  });

  it("the launch event of the worked example in EVIDENCE.md is what is encoded", () => {
    const event = { kind: "policy", name: "policy", sha256: sha256(new Uint8Array()) } as const;
    expect(toHex(encodeLaunchEvent(event))).toBe(
      "a3646b696e6466706f6c696379646e616d6566706f6c696379667368613235365820e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    );
    expect(toHex(launchEventDigests(event).sha256)).toBe(
      "3dbc57b68b1011985f49def211a3979f4576cbdd324489b529b0132f91d1a214",
    );
    expect(toHex(predictAgentPcr([event]).sha256)).toBe(
      "06ec152d3b623778e585c036baaabf4d2ecc07bb75345336297c177e29e34494",
    );
  });
});

describe("the worked examples of EVIDENCE.md", () => {
  const document = readFileSync(resolve(import.meta.dirname, "../../attest/EVIDENCE.md"), "utf8");
  /** The hexadecimal of the block behind a sentence, without the notes beside it. */
  const block = (sentence: string) => {
    const from = document.indexOf("```\n", document.indexOf(sentence)) + 4;
    const lines = document.slice(from, document.indexOf("```", from)).split("\n");
    return lines
      .map((line) => (/^ *(?:[0-9a-f]+ {1,3})*[0-9a-f]+(?= {4}|$)/.exec(line)?.[0] ?? "").replaceAll(" ", ""))
      .join("");
  };

  it("an agent log of one event", () => {
    const event = { kind: "policy", name: "policy", sha256: sha256(new Uint8Array()) } as const;
    const log = encodeCel([celRecord(0, 13, event)]);
    expect(log).toHaveLength(172);
    expect(block("The agent log with that event alone")).toBe(toHex(log));
  });

  it("a pcrs section, an empty ek-certificates section", () => {
    const values = new Map([
      [0, new Uint8Array(32)],
      [13, new Uint8Array(32).fill(0xdd)],
    ]);
    expect(block("The `pcrs` section for PCR 0")).toBe(toHex(encodePcrs({ bank: "sha256", values })));
    expect(toHex(encodeEkCertificates([]))).toBe("80");
  });

  it("the beginning of an envelope", async () => {
    const { evidence } = await makeEvidence();
    const envelope = toHex(encodeEvidence({ ...evidence, ak: utf8("ak") }));
    expect(block("The beginning of an envelope")).toBe(envelope.slice(0, block("The beginning of an envelope").length));
    expect(block("The beginning of an envelope").length).toBeGreaterThan(90);
  });

  it("the templates of the attestation keys, and what a verifier keeps", () => {
    for (const [kind, template] of Object.entries(attestationKeyTemplates)) {
      const line = document.split("\n").find((each) => each.startsWith(`${kind} `)) ?? "";
      expect(line.replaceAll(" ", "")).toContain(`${kind}${toHex(template)}`);
    }
    const kept = document.split("\n").find((each) => each.startsWith('{"version":1,"clock"')) ?? "";
    const bytes = utf8(kept.replace("(64 digits)", "ab".repeat(32)));
    expect(encodeContinuity(parseContinuity(bytes))).toEqual(bytes);
  });
});

describe("the agent log", () => {
  const records = servingEvents().map((event, index) => celRecord(index, 13, event));
  const change = (index: number, key: number, value: CborValue) => {
    const log = decodeCbor(encodeCel(records)) as readonly ReadonlyMap<CborKey, CborValue>[];
    return encodeCbor(log.map((record, at) => (at === index ? new Map([...record, [key, value]]) : record)));
  };

  it.each([
    ["a gap in the numbers", 1, 0, 5],
    ["another PCR", 1, 1, 14],
    ["another content type", 1, 9, 5],
    ["no digests", 1, 3, []],
    [
      "content that is not what was hashed",
      1,
      10,
      encodeLaunchEvent({ kind: "policy", name: "other", sha256: new Uint8Array(32) }),
    ],
    [
      "an unknown kind",
      1,
      10,
      encodeCbor(
        new Map<string, CborValue>([
          ["kind", "x"],
          ["name", "x"],
          ["sha256", new Uint8Array(32)],
        ]),
      ),
    ],
    ["another field", 1, 4, 0],
  ] as const)("I9: %s is refused", (_title, index, key, value) => {
    expect(() => parseCel(change(index, key, value as CborValue))).toThrow(IronclawError);
  });

  it("the predicted agent PCR is the replayed one, in both banks", () => {
    for (const bank of ["sha256", "sha384"] as const) {
      expect(toHex(replayCel(records, bank))).toBe(toHex(predictAgentPcr(servingEvents())[bank]));
    }
  });

  it("I9: a log as long as its section may be is read, whatever its records are", () => {
    const smallest = (recnum: number) => celRecord(recnum, 13, { kind: "key", name: "", sha256: new Uint8Array(32) });
    const log = encodeCel(Array.from({ length: 6_390 }, (_, recnum) => smallest(recnum)));
    expect(log.length).toBeGreaterThan((1 << 20) - 2000);
    expect(parseCel(log)).toHaveLength(6_390);
  });

  it("is rendered one JSON record a line", () => {
    const lines = renderCelJsonLines(records)
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as { recnum: number; content: { kind: string } });
    expect(lines.map(({ recnum }) => recnum)).toEqual(records.map((_, index) => index));
    expect(lines.every(({ content }) => isLaunchEventKind(content.kind))).toBe(true);
  });
});
