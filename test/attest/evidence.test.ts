import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { celRecord, encodeCel, parseCel } from "../../attest/cel.ts";
import {
  type Claims,
  imageVariants,
  keyPurposes,
  launchStates,
  type ShimClaim,
  shimRoles,
} from "../../attest/claims.ts";
import { encodeClaims, parseClaims } from "../../attest/claims-codec.ts";
import { encodeEnrolment, parseEnrolment } from "../../attest/enrolment.ts";
import {
  type Evidence,
  encodeEkCertificates,
  encodeEvidence,
  encodePcrs,
  parseEkCertificates,
  parseEvidence,
  parsePcrs,
} from "../../attest/evidence.ts";
import type { Incident } from "../../attest/incidents.ts";
import { encodeLaunchEvent, type LaunchEvent, parseLaunchEvent } from "../../attest/launch-events.ts";
import {
  encodeTpmPublic,
  encodeTpmSignature,
  parseQuoteAttest,
  parseTpmPublic,
  parseTpmSignature,
} from "../../attest/tpm-structures.ts";
import { IronclawError, SANDBOX_FEATURES, toHex, utf8 } from "../../policy/index.ts";
import { attempt, replacement } from "../support/appraisal-rows.ts";
import {
  makeClaims,
  makeEnrolment,
  makeEvidence,
  servingEvents,
  shim,
  softEccKey,
  token,
} from "../support/evidence-maker.ts";

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

const digests = fc
  .uniqueArray(fc.tuple(text, bytes(32)), { selector: ([path]) => path, maxLength: 4 })
  .map((list) => new Map(list));
const shortText = fc.string({ maxLength: 48 });
const anyIncident: fc.Arbitrary<Incident> = fc.oneof(
  fc.record({
    what: fc.constant("syscall" as const),
    token: fc.stringMatching(/^[a-z0-9][a-z0-9-]{0,47}$/),
    shim: fc.nat(),
    syscall: shortText,
    nr: fc.nat(),
    args: fc.array(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), { minLength: 6, maxLength: 6 }),
    thread: fc.nat(),
    count: fc.nat(),
  }),
  fc.record({
    what: fc.constant("device" as const),
    device: fc.stringMatching(/^(usb:)?[0-9a-f]{4}:[0-9a-f]{4}$/),
    change: fc.constantFrom("added" as const, "removed" as const),
  }),
  fc.record({
    what: fc.constant("replacement" as const),
    token: shortText,
    from: fc.nat(),
    to: fc.integer({ min: -1 }),
    why: shortText,
  }),
);
const anyShims: fc.Arbitrary<readonly ShimClaim[]> = fc
  .uniqueArray(
    fc.record({
      token: text,
      id: fc.nat(),
      role: fc.constantFrom(...shimRoles),
      landlock: fc.nat(),
      process: fc.option(
        fc.record({
          uid: fc.nat(),
          seccompFilters: fc.nat(),
          inheritedFilters: fc.nat(),
          capabilities: text,
          namespaces: fc.array(text, { maxLength: 8 }),
        }),
      ),
    }),
    { selector: ({ id }) => id, maxLength: 16 },
  )
  .map((list) => list.sort((a, b) => a.id - b.id));

const anyClaims: fc.Arbitrary<Claims> = fc.record({
  nonce: bytes(32),
  ueid: bytes(33),
  bootSeed: bytes(16),
  software: fc.record({ name: text, version: text }),
  debugEnabled: fc.boolean(),
  measured: fc.record({
    launch: fc.constantFrom(...launchStates),
    policy: fc.option(bytes(32)),
    profiles: digests,
    libraries: digests,
    closure: digests,
  }),
  asserted: fc.record({
    machine: text,
    image: fc.record({ id: text, variant: fc.constantFrom(...imageVariants) }),
    reasons: fc.array(fc.record({ code: text, item: text, expected: text, got: text }), { maxLength: 3 }),
    unseal: fc.array(fc.record({ command: text, rc: text, text }), { maxLength: 3 }),
    tokens: fc
      .uniqueArray(
        fc.record({ name: text, label: text, serial: text, manufacturer: text, model: text, firmware: text }),
        { selector: ({ name }) => name, maxLength: 4 },
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
    shims: anyShims,
    lacks: fc.subarray(SANDBOX_FEATURES.map(({ name }) => name)),
    exceptions: fc.array(text, { maxLength: 3 }),
    incidents: fc.array(anyIncident, { maxLength: 3 }),
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
  const said = (asserted: Partial<Claims["asserted"]>) => () =>
    parseClaims(encodeClaims(makeClaims({ ...{ events: [], launch: "serving", claims: {} }, asserted })));
  const incident = (changes: object) => said({ incidents: [{ ...attempt("bpf"), ...changes } as Incident] });
  const times = <T>(count: number, make: (index: number) => T) =>
    Array.from({ length: count }, (_, index) => make(index));

  it.each<[string, () => Claims]>([
    ["two shims with one id", said({ shims: [shim, shim] })],
    ["shims out of order", said({ shims: [{ ...shim, id: 1 }, shim] })],
    ["seventeen shims", said({ shims: times(17, (id) => ({ ...shim, id })) })],
    ["five tokens", said({ tokens: times(5, (index) => ({ ...token, name: `t${index}` })) })],
    ["65 incidents", said({ incidents: times(65, () => attempt("bpf")) })],
    ["33 exceptions", said({ exceptions: times(33, () => "more") })],
    ["641 denied calls", said({ violations: new Map(times(641, (index) => [`${index}`, 1])) })],
    ["a feature that is none", said({ lacks: ["landlock" as never] })],
    ["a role that is none", said({ shims: [{ ...shim, role: "idle" as never }] })],
    ["a call with five arguments", incident({ args: [0n, 0n, 0n, 0n, 0n] })],
    ["a call with an argument below zero", incident({ args: [-1n, 0n, 0n, 0n, 0n, 0n] })],
    ["a call of 49 characters", incident({ syscall: "x".repeat(49) })],
    ["a call with one field more", incident({ more: 1 })],
    ["a call of no process", incident({ shim: -1 })],
    ["a device that is none", said({ incidents: [{ what: "device", device: "8086", change: "added" }] })],
    ["a change that is none", said({ incidents: [{ what: "device", device: "1af4:1041", change: "moved" as never }] })],
    ["a process before the first", said({ incidents: [{ ...replacement, to: -2 }] })],
    ["a reason of 201 characters", said({ incidents: [{ ...replacement, why: "x".repeat(201) }] })],
  ])("I9: claims with %s are malformed", (_title, read) => {
    expect(read).toThrow(expect.objectContaining({ code: "ERR_CLAIMS_MALFORMED" }));
  });

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
