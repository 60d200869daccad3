import { describe, expect, it } from "vitest";
import {
  type AppraisalPolicy,
  defaultAppraisalPolicy,
  encodeAppraisalPolicy,
  parseAppraisalPolicy,
} from "../../attest/appraisal-policy.ts";
import { type AttestationResult, appraise } from "../../attest/appraise.ts";
import { measureToken } from "../../attest/claims-codec.ts";
import type { AssuranceClass } from "../../attest/enrolment.ts";
import { explain } from "../../attest/explain.ts";
import type { ReferenceValues } from "../../attest/finding.ts";
import { launchEvent } from "../../attest/launch-events.ts";
import { verifyEvidence } from "../../attest/verify.ts";
import { concatBytes, IronclawError, sha256, utf8 } from "../../policy/index.ts";
import {
  inTime,
  makeEvidence,
  makeReference,
  referenceEvents,
  type Scene,
  secondToken,
  servedKey,
  servingEvents,
  token,
} from "../support/evidence-maker.ts";
import { logEvent, logHeader, typicalLog } from "../support/firmware-log-writer.ts";

interface Setting {
  readonly scene?: Partial<Scene>;
  readonly assurance?: AssuranceClass;
  readonly reference?: Partial<ReferenceValues>;
  readonly policy?: Partial<AppraisalPolicy>;
  readonly now?: Date;
}

async function judge({ scene, assurance, reference, policy, now }: Setting): Promise<AttestationResult> {
  const { evidence, challenge, enrolment } = await makeEvidence(scene);
  const enrolled = { ...enrolment, assurance: assurance ?? enrolment.assurance };
  const verified = await verifyEvidence(evidence, challenge, enrolled, null);
  return appraise(
    verified,
    { ...makeReference(), ...reference },
    { ...defaultAppraisalPolicy, ...policy },
    now ?? inTime,
  );
}

const codes = ({ findings }: AttestationResult) => findings.map(({ tier, code }) => `${tier} ${code}`);
const other = sha256(utf8("other"));
const withEvent = (index: number, event: ReturnType<typeof launchEvent>) => servingEvents().toSpliced(index, 1, event);
const later = (kind: "violation" | "shim-replaced" | "anchor" | "narrowed", name: string) => [
  ...servingEvents(),
  launchEvent(kind, name, other),
];

describe("appraisal", () => {
  it("I9: an honest machine with every PCR pinned is affirmed", async () => {
    const result = await judge({});
    expect(codes(result)).toEqual([]);
    expect(result.tier).toBe("affirming");
    expect(result.events.every(({ agrees }) => agrees)).toBe(true);
  });

  it("anchors and narrowings after the cap change nothing", async () => {
    expect((await judge({ scene: { events: later("anchor", "audit 8") } })).tier).toBe("affirming");
    expect((await judge({ scene: { events: later("narrowed", "policy 2") } })).tier).toBe("affirming");
  });

  const contraindicated: readonly (readonly [string, string, Setting])[] = [
    ["a software TPM under the default policy", "assurance", { assurance: "software-tpm" }],
    ["a development image", "image-variant", { reference: { image: { id: "11".repeat(32), variant: "dev" } } }],
    [
      "another image than the release's",
      "image-id",
      { reference: { image: { id: "22".repeat(32), variant: "release" } } },
    ],
    ["a report that says debugging is on", "debug-status", { scene: { claims: { debugEnabled: true } } }],
    ["an expired release", "release-dates", { now: new Date("2028-01-01T00:00:00Z") }],
    ["a release without readable dates", "release-dates", { reference: { notAfter: "soon" } }],
    [
      "another unified kernel image",
      "pcr-mismatch",
      { scene: { firmwareLog: concatBytes(typicalLog(), logEvent(4, 0xd, utf8("more"))) } },
    ],
    ["a release without a value for the command line", "pcr-no-reference", { reference: { pcrs: withoutPcr("12") } }],
    ["firmware that extends nothing", "pcr-unextended", { scene: { firmwareLog: logHeader() } }],
    ["a challenge that leaves PCR 4 out", "pcr-not-quoted", { scene: { asked: [9, 11, 12, 13] } }],
    [
      "a challenge that leaves out a firmware PCR that the release has a value for",
      "pcr-not-quoted",
      { scene: { asked: [4, 9, 11, 12, 13] }, assurance: "hardware-ek" },
    ],
    [
      "another library",
      "event-mismatch",
      { scene: { events: withEvent(4, launchEvent("library", "/usr/lib/libsofthsm2.so", other)) } },
    ],
    [
      "a library under another name",
      "event-order",
      { scene: { events: withEvent(4, launchEvent("library", "/tmp/evil.so", other)) } },
    ],
    [
      "an event that the release does not expect",
      "event-unknown",
      { scene: { events: servingEvents().toSpliced(10, 0, launchEvent("closure", "/lib/more.so", other)) } },
    ],
    ["a missing event", "event-missing", { scene: { events: servingEvents().toSpliced(9, 1) } }],
    [
      "a measurement after the cap",
      "event-order",
      { scene: { events: [...servingEvents(), launchEvent("closure", "/lib/late.so", other)] } },
    ],
    ["a violation", "violations", { scene: { events: later("violation", "ptrace") } }],
    [
      "denied calls that the agent only counted",
      "violations",
      { scene: { asserted: { violations: new Map([["ptrace", 3]]) } } },
    ],
    [
      "a probe that succeeded",
      "probe-succeeded",
      { scene: { claims: { selfReported: { probe: new Map([["execve", 0]]) } } } },
    ],
    ["a probe that was cut down", "probe-missing", { scene: { claims: { selfReported: { probe: new Map() } } } }],
    [
      "a probe that the kernel did not see",
      "probe-unwitnessed",
      { scene: { asserted: { probeWitnessed: new Map() } } },
    ],
    ["a shim that nobody looked at", "shim-process", { scene: { asserted: { shim: null } } }],
    [
      "a shim that is root",
      "shim-process",
      {
        scene: { asserted: { shim: { uid: 0, seccompFilters: 0, capabilities: "000001ffffffffff", namespaces: [] } } },
      },
    ],
    [
      "a service without keys",
      "token",
      {
        scene: {
          events: [...referenceEvents(), launchEvent("cap", "serving", other)],
          asserted: { tokens: [], keys: [] },
        },
      },
    ],
    [
      "a hardware TPM without firmware reference values",
      "firmware-unpinned",
      { assurance: "hardware-ek", reference: { pcrs: withoutPcr("7") } },
    ],
  ];

  it.each(contraindicated)("I9: %s is contraindicated", async (_title, code, setting) => {
    const result = await judge(setting);
    expect(codes(result)).toContain(`contraindicated ${code}`);
    expect(result.tier).toBe("contraindicated");
  });

  it("I9: two tokens are affirmed with an event each, and a key on a token that no claim names is contraindicated", async () => {
    const first = launchEvent("token", secondToken.name, measureToken(secondToken));
    const events = servingEvents().toSpliced(referenceEvents().length, 0, first);
    const both = await judge({ scene: { events, asserted: { tokens: [secondToken, token] } } });
    expect(codes(both)).toEqual([]);
    expect(explain(both)).toMatch(/^token payments .*\ntoken signing /m);
    const alone = events.filter(({ name }) => name !== token.name);
    const result = await judge({ scene: { events: alone, asserted: { tokens: [secondToken] } } });
    expect(codes(result)).toEqual(["contraindicated token"]);
  });

  it("I7: a served key that could leave its token is contraindicated", async () => {
    const { measureKey } = await import("../../attest/claims-codec.ts");
    const key = { ...servedKey, attributes: { sensitive: true, extractable: true } };
    const events = withEvent(11, launchEvent("key", key.name, measureKey(key)));
    const result = await judge({ scene: { events, asserted: { keys: [key] } } });
    expect(codes(result)).toEqual(["contraindicated key-attributes", "warning key-attributes"]);
  });

  it("I9: a software TPM is affirmed only by a policy that names the class, and the result says which class it is", async () => {
    const named = await judge({ assurance: "software-tpm", policy: { minAssurance: "software-tpm" } });
    expect([named.tier, named.assurance]).toEqual(["affirming", "software-tpm"]);
  });

  it("I9: firmware PCRs go without reference values only by a written waiver", async () => {
    const setting: Setting = { assurance: "hardware-ek", reference: { pcrs: withoutPcr("7") } };
    expect((await judge(setting)).tier).toBe("contraindicated");
    expect((await judge({ ...setting, policy: { waiveFirmwarePins: true } })).tier).toBe("affirming");
  });

  const warned: readonly (readonly [string, string, Setting])[] = [
    ["firmware PCRs without reference values", "firmware-unpinned", { reference: { pcrs: withoutPcr("7") } }],
    [
      "a tolerated violation",
      "violations",
      { scene: { events: later("violation", "ptrace") }, policy: { maxViolations: 1 } },
    ],
    ["a replaced shim", "shim-replaced", { scene: { events: later("shim-replaced", "1") } }],
    ["a clock that may have gone back", "clock-unsafe", { scene: { attest: { safe: 0 } } }],
  ];

  it.each(warned)("%s is a warning", async (_title, code, setting) => {
    const result = await judge(setting);
    expect(codes(result)).toEqual([`warning ${code}`]);
    expect(result.tier).toBe("warning");
  });

  it("a refused launch is contraindicated with its own reasons and the TPM's answers", async () => {
    const events = [
      ...referenceEvents().toSpliced(4, 1, launchEvent("library", "/usr/lib/libsofthsm2.so", other)),
      launchEvent("cap", "refused", other),
    ];
    const result = await judge({
      scene: {
        events,
        launch: "refused",
        asserted: {
          tokens: [],
          keys: [],
          shim: null,
          reasons: [{ code: "library-mismatch", item: "/usr/lib/libsofthsm2.so", expected: "aa", got: "bb" }],
          unseal: [{ command: "TPM2_PolicyPCR", rc: "0x000001c4", text: "value out of range" }],
        },
      },
    });
    expect(codes(result)).toEqual(
      ["event-mismatch", "launch-state", "launch-library-mismatch", "launch-tpm-answer"].map(
        (code) => `contraindicated ${code}`,
      ),
    );
    expect(explain(result)).toContain("0x000001c4 value out of range");
    expect(explain(result)).toContain("<- differs");
  });

  it("text from outside cannot steer the reader's terminal", async () => {
    const reasons = [{ code: "x", item: "\u001b[2J\u202eevil", expected: "a\nb", got: "c" }];
    const events = [...referenceEvents(), launchEvent("cap", "refused", other)];
    const text = explain(
      await judge({ scene: { events, launch: "refused", asserted: { tokens: [], keys: [], reasons } } }),
    );
    expect(text).toContain("?[2J?evil: expected a?b");
  });
});

function withoutPcr(pcr: string): ReferenceValues["pcrs"] {
  const { sha256: first, sha384: second } = makeReference().pcrs;
  const drop = (values: Record<string, string>) =>
    Object.fromEntries(Object.entries(values).filter(([index]) => index !== pcr));
  return { sha256: drop(first), sha384: drop(second) };
}

describe("the appraisal policy", () => {
  it("is read as it was written, and nothing unknown is ignored", () => {
    const policy: AppraisalPolicy = {
      version: 1,
      acceptVariants: ["demo"],
      minAssurance: "software-tpm",
      maxViolations: 2,
      requireCapped: true,
    };
    expect(parseAppraisalPolicy(encodeAppraisalPolicy(policy))).toEqual(policy);
    for (const bad of [
      { ...policy, requireCapped: false },
      { ...policy, extra: 1 },
      { ...policy, minAssurance: "any" },
      { version: 1 },
      [],
      "x",
    ]) {
      expect(() => parseAppraisalPolicy(utf8(JSON.stringify(bad)))).toThrow(IronclawError);
    }
    expect(() => parseAppraisalPolicy(utf8("{"))).toThrow(IronclawError);
  });
});
