import { describe, expect, it } from "vitest";
import type { MeasuredClaims } from "../../attest/claims.ts";
import { measureKey } from "../../attest/claims-codec.ts";
import { EvidenceRefused } from "../../attest/errors.ts";
import { type Challenge, defaultQuotePcrs, measureExtraData } from "../../attest/evidence.ts";
import { type Incident, incidentEvent } from "../../attest/incidents.ts";
import { type LaunchEvent, launchEvent } from "../../attest/launch-events.ts";
import { tpmName } from "../../attest/tpm-structures.ts";
import { verifyEvidence } from "../../attest/verify.ts";
import { fromBase64, sha256, toBase64, toHex, utf8 } from "../../policy/index.ts";
import { attempt, replacement } from "../support/appraisal-rows.ts";
import {
  type Made,
  makeClaims,
  makeEvidence,
  nonce,
  type Scene,
  servedKey,
  servingEvents,
  softEccKey,
} from "../support/evidence-maker.ts";
import { logHeader } from "../support/firmware-log-writer.ts";

const other = sha256(utf8("other"));

/** `code: item` of every reason; empty for evidence that verifies. */
async function reasonsOf({ evidence, challenge, enrolment }: Made): Promise<readonly string[]> {
  try {
    await verifyEvidence(evidence, challenge, enrolment, null);
  } catch (error) {
    if (error instanceof EvidenceRefused) return error.reasons.map(({ code, item }) => `${code}: ${item}`);
    throw error;
  }
  return [];
}

/** The honest machine, which says something else of what it measured. */
function claiming(changes: Partial<MeasuredClaims>, events: readonly LaunchEvent[] = servingEvents()): Partial<Scene> {
  const { measured } = makeClaims({ events, launch: "serving", asserted: {}, claims: {} });
  return { events, claims: { measured: { ...measured, ...changes } } };
}
const withoutKind = (kind: string) => servingEvents().filter((event) => event.kind !== kind);
const loader = "/lib64/ld-linux-x86-64.so.2";
const closure = () =>
  makeClaims({ events: servingEvents(), launch: "serving", asserted: {}, claims: {} }).measured.closure;

describe("claims that call themselves measured", () => {
  describe("policy", () => {
    const kind = "policy";
    const refused = [`claim-measured: ${kind}`];
    it("I9: another digest than the log's is refused, for that alone", async () => {
      expect(await reasonsOf(await makeEvidence(claiming({ [kind]: other })))).toEqual(refused);
    });

    it("I9: none where the log has one is refused, for that alone", async () => {
      expect(await reasonsOf(await makeEvidence(claiming({ [kind]: null })))).toEqual(refused);
    });

    it("I9: one where the log has none is refused, for that alone", async () => {
      expect(await reasonsOf(await makeEvidence(claiming({ [kind]: other }, withoutKind(kind))))).toEqual(refused);
    });

    it("I9: none where the log has none is taken", async () => {
      expect(await reasonsOf(await makeEvidence(claiming({}, withoutKind(kind))))).toEqual([]);
    });

    it("I9: a second event of it is refused, whichever of both is claimed", async () => {
      const second = launchEvent(kind, "second", other);
      for (const digest of [{}, { [kind]: other }]) {
        const scene = claiming(digest, servingEvents().toSpliced(10, 0, second));
        expect(await reasonsOf(await makeEvidence(scene))).toEqual(refused);
      }
    });
  });

  describe.each([
    ["profile", "profiles"],
    ["library", "libraries"],
  ] as const)("%s", (kind, claim) => {
    const refused = [`claim-measured: ${kind}`];
    const measured = servingEvents().find((event) => event.kind === kind) ?? launchEvent(kind, "", other);
    const second = launchEvent(kind, "second", other);
    const both = servingEvents().toSpliced(8, 0, second);
    const as = (...entries: readonly (readonly [string, Uint8Array])[]) => ({ [claim]: new Map(entries) });

    it.each<[string, Partial<Scene>]>([
      ["of another digest", claiming(as([measured.name, other]))],
      ["of another name", claiming(as(["other", measured.sha256]))],
      ["that the log has, and none is claimed", claiming(as())],
      ["that the log has not", claiming(as([measured.name, measured.sha256]), withoutKind(kind))],
      ["fewer than the log has", claiming(as([measured.name, measured.sha256]), both)],
      ["more than the log has", claiming(as([measured.name, measured.sha256], ["second", other]))],
      [
        "that was measured twice",
        claiming({}, [...servingEvents().slice(0, 8), measured, ...servingEvents().slice(8)]),
      ],
    ])("I9: one %s is refused, for that alone", async (_title, scene) => {
      expect(await reasonsOf(await makeEvidence(scene))).toEqual(refused);
    });

    it("I9: none where the log has none is taken, and both of two", async () => {
      expect(await reasonsOf(await makeEvidence(claiming({}, withoutKind(kind))))).toEqual([]);
      expect(await reasonsOf(await makeEvidence(claiming({}, both)))).toEqual([]);
    });

    it("I9: of two digests under one name, which no release has, the later is the one that is claimed", async () => {
      const changed = servingEvents().toSpliced(8, 0, launchEvent(kind, measured.name, other));
      expect(await reasonsOf(await makeEvidence(claiming({}, changed)))).toEqual([]);
      const earlier = claiming(as([measured.name, measured.sha256]), changed);
      expect(await reasonsOf(await makeEvidence(earlier))).toEqual(refused);
    });
  });

  it.each<[string, readonly Incident[], readonly Incident[]]>([
    ["that the log has not", [], [attempt("bpf")]],
    ["less than the log has", [attempt("bpf"), attempt("ptrace")], [attempt("bpf")]],
    ["more than the log has", [attempt("bpf")], [attempt("bpf"), attempt("bpf")]],
    ["in another order", [attempt("bpf"), replacement], [replacement, attempt("bpf")]],
    ["with another argument", [attempt("bpf")], [{ ...attempt("bpf"), args: [9n, 0n, 0n, 0n, 0n, 0n] }]],
    ["of another shim", [attempt("bpf")], [{ ...attempt("bpf"), shim: 1 }]],
    ["that another took over from", [replacement], [{ ...replacement, to: -1 }]],
  ])("I5 I9: an incident %s is refused, for that alone", async (_title, incidents, claimed) => {
    const events = [...servingEvents(), ...incidents.map(incidentEvent)];
    const found = await reasonsOf(await makeEvidence({ events, asserted: { incidents: claimed } }));
    expect(found).toHaveLength(1);
    expect(found[0]).toMatch(/^claim-measured: incident [01]$/);
    expect(await reasonsOf(await makeEvidence({ incidents }))).toEqual([]);
  });

  it.each<[string, Partial<Scene>]>([
    ["of another digest", claiming({ closure: new Map([...closure(), [loader, other]]) })],
    ["that was not measured", claiming({ closure: new Map([...closure(), ["/lib/more.so", other]]) })],
    ["less", claiming({ closure: new Map([...closure()].slice(1)) })],
    ["once that was measured twice", claiming({}, [...servingEvents().slice(0, 6), ...servingEvents().slice(5)])],
    [
      "in the place of one that was measured twice",
      claiming({ closure: closure() }, [
        ...servingEvents().slice(0, 5),
        ...[6, 6].flatMap((at) => servingEvents().slice(at, at + 1)),
        ...servingEvents().slice(7),
      ]),
    ],
  ])("I9: a closure with an object %s is refused, for that alone", async (_title, scene) => {
    expect(await reasonsOf(await makeEvidence(scene))).toEqual(["claim-measured: closure"]);
  });

  it("I9: a key that is claimed twice in the place of another that was measured is refused", async () => {
    const second = { ...servedKey, name: "second" };
    const events = servingEvents().toSpliced(12, 0, launchEvent("key", second.name, measureKey(second)));
    const both = await makeEvidence({ events, asserted: { keys: [servedKey, second] } });
    expect(await reasonsOf(both)).toEqual([]);
    const twice = await makeEvidence({ events, asserted: { keys: [servedKey, servedKey] } });
    expect(await reasonsOf(twice)).not.toEqual([]);
  });

  const capped = (...names: readonly string[]) => [
    ...servingEvents().slice(0, -1),
    ...names.map((name) => launchEvent("cap", name, other)),
  ];
  it.each<[Scene["launch"], readonly (readonly string[])[]]>([
    ["serving", [["serving"]]],
    ["draining", [["serving"]]],
    ["refused", [["refused"]]],
    ["booted", [[]]],
    ["measuring", [[]]],
    ["unsealing", [[]]],
    ["logging-in", [[]]],
    ["checking-keys", [[]]],
    ["capping", [[], ["serving"], ["refused"], ["serving", "serving"]]],
    ["stopped", [[], ["serving"], ["refused"], ["serving", "serving"]]],
  ])("I9: a launch that says it is %s has the cap of that state", async (launch, allowed) => {
    for (const caps of [[], ["serving"], ["refused"], ["serving", "serving"]]) {
      const found = await reasonsOf(await makeEvidence({ launch, events: capped(...caps) }));
      const good = allowed.some((each) => each.join() === caps.join());
      expect(found, caps.join() || "no cap").toEqual(good ? [] : [`claim-measured: launch ${launch}`]);
    }
  });
});

describe("the enrolled key", () => {
  const another = softEccKey();
  it("I9: an enrolment's public area that is not the key's is refused, also where its Name is", async () => {
    const made = await makeEvidence();
    const enrolment = { ...made.enrolment, akPublic: toBase64((await another).publicArea) };
    expect(await reasonsOf({ ...made, enrolment })).toEqual(["ak-not-enrolled: ak name"]);
  });

  it("I9: an enrolment's Name that is not the key's is refused, also where its public area is", async () => {
    const made = await makeEvidence();
    const enrolment = { ...made.enrolment, akName: toHex(tpmName((await another).publicArea)) };
    expect(fromBase64(enrolment.akPublic, "akPublic")).toEqual(made.evidence.ak);
    expect(await reasonsOf({ ...made, enrolment })).toEqual(["ak-not-enrolled: ak name"]);
  });
});

describe("the sections of a report", () => {
  /** A report whose quote is over these bytes of a section, whatever they are. */
  async function quoted(section: "ekCertificates" | "agentLog" | "claims", bytes: Uint8Array): Promise<Made> {
    const { evidence } = await makeEvidence();
    const extraData = measureExtraData(nonce, { ...evidence, [section]: bytes });
    const made = await makeEvidence({ attest: { extraData } });
    return { ...made, evidence: { ...made.evidence, [section]: bytes } };
  }
  it.each<["ekCertificates" | "agentLog" | "claims", string]>([
    ["ekCertificates", "ek-certificates"],
    ["agentLog", "agent-log"],
    ["claims", "claims"],
  ])("I9: %s that are malformed are refused, although the quote is over them", async (section, name) => {
    const found = await reasonsOf(await quoted(section, Uint8Array.of(0x40)));
    expect(found).toHaveLength(1);
    expect(found[0]).toMatch(new RegExp(`^ERR_[A-Z_]+: ${name}: `));
  });

  it("I9: values of another bank than the asked one are refused, although they are those that were quoted", async () => {
    const selections = [{ hash: 0x000b, pcrs: defaultQuotePcrs }];
    const made = await makeEvidence({ bank: "sha384", attest: { selections } });
    const found = await reasonsOf({ ...made, challenge: { ...made.challenge, bank: "sha256" } });
    expect(found.filter((reason) => !reason.startsWith("pcr-replay"))).toEqual(["pcr-section: pcrs bank"]);
  });

  it("I9: values of other PCRs than the asked ones are refused, although every one is explained", async () => {
    const made = await makeEvidence();
    const pcrs = defaultQuotePcrs.filter((pcr) => pcr !== 14);
    const fewer = await makeEvidence({
      quoted: pcrs,
      attest: { selections: [{ hash: 0x000b, pcrs: defaultQuotePcrs }] },
    });
    expect(await reasonsOf({ ...fewer, challenge: made.challenge })).toEqual(["pcr-section: pcrs values"]);
  });

  it("I9: a firmware log without the asked bank explains nothing", async () => {
    const values = new Map(defaultQuotePcrs.map((pcr) => [pcr, new Uint8Array(32)]));
    const firmwareLog = logHeader([[0x000c, 48]]);
    const found = await reasonsOf(await makeEvidence({ values, firmwareLog }));
    expect(found).toHaveLength(1);
    expect(found[0]).toMatch(/^ERR_FIRMWARE_LOG: firmware-log: /);
  });
});

describe("a challenge that is none", () => {
  it.each<[string, Partial<Challenge>]>([
    ["a nonce of 31 bytes", { nonce: new Uint8Array(31) }],
    ["a nonce of 33 bytes", { nonce: new Uint8Array(33) }],
    ["no nonce", { nonce: new Uint8Array() }],
    ["no PCR", { pcrs: [] }],
    ["a PCR twice", { pcrs: [4, 4] }],
    ["PCRs that descend", { pcrs: [4, 2] }],
    ["PCR 24", { pcrs: [4, 24] }],
    ["a negative PCR", { pcrs: [-1, 4] }],
    ["half a PCR", { pcrs: [0.5, 4] }],
  ])("I9: with %s is the caller's error", async (_title, changes) => {
    const { evidence, challenge, enrolment } = await makeEvidence();
    const asked = { ...challenge, ...changes };
    await expect(verifyEvidence(evidence, asked, enrolment, null)).rejects.toThrow(TypeError);
  });
});
