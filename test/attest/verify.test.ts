import { describe, expect, it } from "vitest";
import { EvidenceRefused } from "../../attest/errors.ts";
import { encodeEvidence, encodePcrs, parseEvidence, parsePcrs } from "../../attest/evidence.ts";
import { explainReasons } from "../../attest/explain.ts";
import { launchEvent } from "../../attest/launch-events.ts";
import type { Reason } from "../../attest/reason.ts";
import { verifyEvidence } from "../../attest/verify.ts";
import { concatBytes, sha256, utf8 } from "../../policy/index.ts";
import {
  type Made,
  makeClaims,
  makeEvidence,
  type Scene,
  secondToken,
  servedKey,
  servingEvents,
  softEccKey,
  softRsaKey,
  token,
} from "../support/evidence-maker.ts";
import { encodeLog, logEvent, logHeader, noActionType, typicalLog } from "../support/firmware-log-writer.ts";
import { finalEvents, grubOnOvmf, platforms } from "../support/firmware-platforms.ts";

async function reasonsOf({ evidence, challenge, enrolment }: Made): Promise<readonly Reason[]> {
  try {
    await verifyEvidence(evidence, challenge, enrolment, null);
  } catch (error) {
    if (error instanceof EvidenceRefused) return error.reasons;
    throw error;
  }
  return [];
}

async function codesOf(made: Made): Promise<readonly string[]> {
  return [...new Set((await reasonsOf(made)).map(({ code }) => code))];
}

describe("evidence of an honest machine", () => {
  it.each(["sha256", "sha384"] as const)("I9: it verifies in bank %s, after a trip over the wire", async (bank) => {
    const { evidence, challenge, enrolment } = await makeEvidence({ bank });
    const received = parseEvidence(encodeEvidence(evidence));
    const verified = await verifyEvidence(received, challenge, enrolment, null);
    expect(verified.machine).toBe("m1");
    expect(verified.pcrs.size).toBe(13);
    expect(verified.doubts).toEqual([]);
  });

  it.each(platforms)("I9: it verifies on %s", async (_name, platform) => {
    const { evidence, challenge, enrolment } = await makeEvidence({ firmwareLog: encodeLog(platform) });
    const verified = await verifyEvidence(evidence, challenge, enrolment, null);
    expect(verified.firmwareLog.events).toHaveLength(platform.entries.length);
  });

  it("I9: a log that lost what came after the boot loader asked for it does not explain PCR 5", async () => {
    const whole = await makeEvidence({ firmwareLog: encodeLog(grubOnOvmf) });
    const entries = grubOnOvmf.entries.filter((entry) => !finalEvents.includes(entry));
    const values = parsePcrs(whole.evidence.pcrs).values;
    const reasons = await reasonsOf(await makeEvidence({ firmwareLog: encodeLog({ ...grubOnOvmf, entries }), values }));
    expect(reasons.map(({ code, item }) => [code, item])).toEqual([["pcr-replay", "PCR 5 (sha256)"]]);
  });

  it("I9: an RSA attestation key is accepted too", async () => {
    expect(await codesOf(await makeEvidence({ key: await softRsaKey() }))).toEqual([]);
  });

  it("I9: a clock that may have gone back is a doubt, not a refusal", async () => {
    const { evidence, challenge, enrolment } = await makeEvidence({ attest: { safe: 0 } });
    const { doubts } = await verifyEvidence(evidence, challenge, enrolment, null);
    expect(doubts.map(({ code }) => code)).toEqual(["clock-unsafe"]);
  });
});

describe("evidence that is refused", () => {
  const other = softEccKey();
  const table: readonly (readonly [string, string, () => Promise<Partial<Scene>> | Partial<Scene>])[] = [
    ["a quote without the TPM's magic", "ERR_TPM_STRUCTURE", () => ({ attest: { magic: 0xfe544347 } })],
    ["an attestation of another type", "ERR_TPM_STRUCTURE", () => ({ attest: { type: 0x8017 } })],
    ["a quote over another nonce", "extra-data", () => ({ attest: { extraData: sha256(utf8("stale")) } })],
    ["a quote with no nonce", "extra-data", () => ({ attest: { extraData: new Uint8Array() } })],
    ["a PCR selection with one PCR less", "pcr-selection", () => ({ quoted: [0, 1, 2, 3, 4, 5, 6, 7, 9, 11, 12, 14] })],
    [
      "a PCR selection with one PCR more",
      "pcr-selection",
      () => ({ quoted: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14] }),
    ],
    ["an empty PCR selection", "pcr-selection", () => ({ attest: { selections: [] } })],
    [
      "a bank other than the asked one",
      "pcr-selection",
      () => ({ attest: { selections: [{ hash: 0x000c, pcrs: [0, 1, 2, 3, 4, 5, 6, 7, 9, 11, 12, 13, 14] }] } }),
    ],
    [
      "the asked selection and a second one",
      "pcr-selection",
      () => ({
        attest: {
          selections: [
            { hash: 0x000b, pcrs: [0, 1, 2, 3, 4, 5, 6, 7, 9, 11, 12, 13, 14] },
            { hash: 0x000b, pcrs: [16] },
          ],
        },
      }),
    ],
    [
      "a PCR digest that is not of the listed values",
      "pcr-digest",
      () => ({ attest: { pcrDigest: sha256(utf8("other values")) } }),
    ],
    ["the key of another TPM", "ak-not-enrolled", async () => ({ enrolledKey: await other })],
    [
      "an unrestricted key's attestation",
      "ak-unsuitable",
      async () => ({ key: await softEccKey({ attributes: 0x40072 }) }),
    ],
    [
      "a key that can decrypt as well",
      "ak-unsuitable",
      async () => ({ key: await softEccKey({ attributes: 0x70072 }) }),
    ],
    ["a key that may leave its TPM", "ak-unsuitable", async () => ({ key: await softEccKey({ attributes: 0x50070 }) })],
    [
      "a key from another hierarchy",
      "qualified-signer",
      () => ({ attest: { qualifiedSigner: sha256(utf8("null hierarchy")) } }),
    ],
    [
      "a firmware log of zero bytes",
      "ERR_FIRMWARE_LOG",
      async () => ({ firmwareLog: new Uint8Array(), values: new Map() }),
    ],
    [
      "a firmware log that extends the agent PCR",
      "firmware-log-agent-pcr",
      () => ({ firmwareLog: concatBytes(typicalLog(), logEvent(13, 0xd, utf8("x"))) }),
    ],
    ["claims for another nonce", "claim", () => ({ claims: { nonce: sha256(utf8("stale")) } })],
    ["claims of another machine", "claim", () => ({ claims: { ueid: new Uint8Array(33).fill(1) } })],
    [
      "a launch that claims to serve and never capped",
      "claim-measured",
      () => ({ events: servingEvents().slice(0, -1) }),
    ],
    [
      "a launch that claims to serve and capped as refused",
      "claim-measured",
      () => ({ events: [...servingEvents().slice(0, -1), launchEvent("cap", "refused", sha256(utf8("")))] }),
    ],
    [
      "a launch that capped twice",
      "claim-measured",
      () => ({ events: [...servingEvents(), launchEvent("cap", "serving", sha256(utf8("")))] }),
    ],
    ["a key that was not measured", "claim-measured", () => ({ asserted: { keys: [] } })],
    ["a token that no claim names", "claim-measured", () => ({ asserted: { tokens: [] } })],
    ["a token that was not measured", "claim-measured", () => ({ asserted: { tokens: [secondToken, token] } })],
    [
      "a token under another's name",
      "claim-measured",
      () => ({ asserted: { tokens: [{ ...token, name: secondToken.name }] } }),
    ],
    [
      "a key that claims another token than it was measured on",
      "claim-measured",
      () => ({ asserted: { keys: [{ ...servedKey, token: secondToken.name }] } }),
    ],
    [
      "a second policy event",
      "claim-measured",
      () => ({ events: [...servingEvents(), ...servingEvents().slice(2, 3)] }),
    ],
  ];

  it.each(table)("I9: %s is refused", async (_title, code, changes) => {
    expect(await codesOf(await makeEvidence(await changes()))).toContain(code);
  });

  it("I9: a quote over a stale nonce is refused", async () => {
    const made = await makeEvidence();
    const later = { ...made.challenge, nonce: sha256(utf8("the next nonce")) };
    expect(await codesOf({ ...made, challenge: later })).toEqual(["extra-data", "claim"]);
  });

  it("I9: a PCR selection other than the asked one is refused", async () => {
    const made = await makeEvidence();
    expect(await codesOf({ ...made, challenge: { ...made.challenge, pcrs: [0, 1, 2, 3, 4, 5, 6, 7] } })).toContain(
      "pcr-selection",
    );
    expect(await codesOf({ ...made, challenge: { ...made.challenge, bank: "sha384" } })).toContain("pcr-selection");
  });

  it("I9: PCR values that no log explains are refused, one reason for each", async () => {
    const honest = await makeEvidence();
    const values = new Map(honest.challenge.pcrs.map((pcr) => [pcr, sha256(Uint8Array.of(pcr))]));
    const reasons = await reasonsOf(await makeEvidence({ values }));
    expect(reasons.map(({ code }) => code)).toEqual(Array.from({ length: 13 }, () => "pcr-replay"));
  });

  it("I9: a listed value that is not quoted is refused", async () => {
    const made = await makeEvidence();
    const pcrs = encodePcrs({ bank: "sha256", values: new Map([[0, new Uint8Array(32)]]) });
    expect(await codesOf({ ...made, evidence: { ...made.evidence, pcrs } })).toEqual([
      "pcr-section",
      "pcr-digest",
      "pcr-replay",
    ]);
  });

  it("I9: exchanging any section breaks the quote", async () => {
    const made = await makeEvidence();
    const refused = await makeEvidence({
      events: servingEvents().slice(0, 3),
      firmwareLog: concatBytes(logHeader(), logEvent(0, noActionType, utf8("x"))),
    });
    for (const section of [
      "ak",
      "claims",
      "agentLog",
      "firmwareLog",
      "ekCertificates",
      "pcrs",
      "quote",
      "signature",
    ] as const) {
      const replaced =
        section === "ak"
          ? (await other).publicArea
          : section === "ekCertificates"
            ? Uint8Array.of(0x81, 0x40)
            : refused.evidence[section];
      expect(await codesOf({ ...made, evidence: { ...made.evidence, [section]: replaced } }), section).not.toEqual([]);
    }
  });

  it("I10: an empty, cut or enlarged section is a reason, never an exception of another kind", async () => {
    const made = await makeEvidence();
    for (const section of Object.keys(made.evidence) as (keyof typeof made.evidence)[]) {
      const bytes = made.evidence[section];
      for (const changed of [
        new Uint8Array(),
        bytes.slice(0, -1),
        concatBytes(bytes, Uint8Array.of(0)),
        new Uint8Array(1 << 16).fill(0xff),
      ]) {
        expect(await codesOf({ ...made, evidence: { ...made.evidence, [section]: changed } }), section).not.toEqual([]);
      }
    }
  });

  it("I10: thousands of differences are a handful of reasons", async () => {
    const closure = new Map(Array.from({ length: 3000 }, (_, index) => [`/lib/${index}`, new Uint8Array(32)]));
    const honest = makeClaims({ events: servingEvents(), launch: "serving", asserted: {}, claims: {} });
    const made = await makeEvidence({ claims: { measured: { ...honest.measured, closure } } });
    const reasons = await reasonsOf(made);
    expect(new Set(reasons.map(({ code }) => code))).toEqual(new Set(["claim-measured"]));
    expect(explainReasons(reasons).length).toBeLessThan(10_000);
  });

  it("I10: hundreds of caps with long names are a reason that says how many, and has an end", async () => {
    const caps = Array.from({ length: 240 }, (_, at) =>
      launchEvent("cap", `${at} ${"x".repeat(4000)}`, new Uint8Array(32)),
    );
    const reasons = await reasonsOf(await makeEvidence({ events: [...servingEvents(), ...caps] }));
    const found = reasons.find(({ item }) => item === "launch serving");
    expect(found?.got).toMatch(/^cap 241, the first: serving\+0 x/);
    for (const { item, expected, got } of reasons)
      for (const text of [item, expected, got]) expect(text.length).toBeLessThanOrEqual(4096);
  });

  it("all reasons are given, not the first one", async () => {
    const made = await makeEvidence({
      key: await softEccKey({ attributes: 0x40072 }),
      enrolledKey: await other,
      attest: { extraData: new Uint8Array(32), pcrDigest: new Uint8Array(32), selections: [] },
    });
    const codes = await codesOf(made);
    for (const code of ["ak-unsuitable", "ak-not-enrolled", "extra-data", "pcr-selection", "pcr-digest"])
      expect(codes).toContain(code);
  });
});
