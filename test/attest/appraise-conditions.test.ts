import { describe, expect, it } from "vitest";
import { requiredProbes } from "../../attest/appraise-shim.ts";
import { incidentEvent, launchEvent, measureKey, type ShimClaim } from "../../attest/index.ts";
import {
  attempt,
  type Condition,
  device,
  findingsOf,
  no,
  other,
  refusedLaunch,
  replacement,
  servingKey,
  shimWith,
} from "../support/appraisal-rows.ts";
import {
  inTime,
  makeReference,
  referenceEvents,
  servedKey,
  servingEvents,
  shim,
  token,
} from "../support/evidence-maker.ts";

const at = (text: string) => ({ now: new Date(text) });

const developed = { id: "11".repeat(32), variant: "dev" as const };
const claiming = (image: { id?: string; variant?: "demo" | "dev" | "release" }) => ({
  scene: { asserted: { image: { id: "11".repeat(32), variant: "release" as const, ...image } } },
});
const releaseRows: readonly Condition[] = [
  ["a release before its time", no("release-dates: now"), at("2025-12-31T23:59:59.999Z")],
  ["a release at its first moment", [], at("2026-01-01T00:00:00.000Z")],
  ["a release at its last moment", [], at("2027-01-01T00:00:00.000Z")],
  ["a release after its time", no("release-dates: now"), at("2027-01-01T00:00:00.001Z")],
  ["a release whose first moment is none", no("release-dates: now"), { reference: { notBefore: "soon" } }],
  ["a release whose last moment is none", no("release-dates: now"), { reference: { notAfter: "later" } }],
  [
    "a report that claims another variant than the release's",
    no("image-variant: claimed image.variant"),
    claiming({ variant: "demo" }),
  ],
  ["a report that claims another image", no("image-id: claimed image.id"), claiming({ id: "22".repeat(32) })],
  [
    "a release of a variant that the policy does not list",
    no("image-variant: release image.variant"),
    { policy: { variants: ["demo", "dev"] } },
  ],
  [
    "a development image that says debugging is off",
    no("debug-status: dbgstat"),
    { ...claiming({ variant: "dev" }), reference: { image: developed }, policy: { variants: ["dev"] } },
  ],
];

const shims = (...list: readonly Partial<ShimClaim>[]) => ({
  scene: { asserted: { shims: list.map((changes, id) => ({ ...shim, id, ...changes })) } },
});
const probing = (attempts: readonly (readonly [string, number])[]) => ({
  scene: { claims: { selfReported: { probe: new Map(attempts) } } },
});
const denied = (names: readonly string[]) => names.map((name) => [name, 1] as const);
const past = { alwaysSensitive: true, neverExtractable: true, local: true };
const remembering = (changes: Partial<typeof past>) => servingKey({ ...servedKey.attributes, ...changes });
const unsure = (...attributes: readonly string[]) =>
  attributes.map((attribute) => `warning key-attributes: key release ${attribute}`);
const shimRows: readonly Condition[] = [
  ["a shim that is root", no("shim-process: shim 0 uid"), shimWith({ uid: 0 })],
  ["a shim without a filter", no("shim-process: shim 0 seccomp filters"), shimWith({ seccompFilters: 0 })],
  ["a shim with one filter too few", no("shim-process: shim 0 seccomp filters"), shimWith({ seccompFilters: 2 })],
  ["a shim with one filter too many", no("shim-process: shim 0 seccomp filters"), shimWith({ seccompFilters: 4 })],
  ["a shim with its filters besides an inherited one", [], shimWith({ seccompFilters: 4, inheritedFilters: 1 })],
  [
    "a shim whose filters are the inherited ones",
    no("shim-process: shim 0 seccomp filters"),
    shimWith({ seccompFilters: 3, inheritedFilters: 3 }),
  ],
  [
    "a shim with one capability",
    no("shim-process: shim 0 capabilities"),
    shimWith({ capabilities: "0000000000000001" }),
  ],
  ["a shim of which nothing is known", no("shim-process: shim 0"), shimWith(null)],
  ["a spare of which nothing is known", no("shim-process: shim 1"), shims({}, { role: "spare", process: null })],
  ["a shim that ended, beside the active one", [], shims({ role: "ended", process: null }, {})],
  ["a token that has a spare only", no("shim-process: shim of token signing"), shims({ role: "spare" })],
  ["a token whose shims ended", no("shim-process: shim of token signing"), shims({ role: "ended", process: null })],
  ["a launch without shims", no("shim-process: shim of token signing"), shims()],
  ["a shim of a token that nobody names", no("shim-process: shim 1"), shims({}, { token: "absent" })],
  ...requiredProbes.map(
    (name): Condition => [
      `a probe that left out ${name}`,
      no(`probe-missing: probe ${name}`),
      probing(denied(requiredProbes.filter((one) => one !== name))),
    ],
  ),
  [
    "a probe that names another call that begins the same",
    no("probe-missing: probe bpf"),
    probing(denied(requiredProbes.map((name) => (name === "bpf" ? "bpfx" : name)))),
  ],
  ["a probe that says how it tried", [], probing(denied(requiredProbes.map((name) => `${name} somehow`)))],
  [
    "a further attempt that succeeded",
    no("probe-succeeded: probe socket AF_INET"),
    probing([...denied(requiredProbes), ["socket AF_INET", 0]]),
  ],
  [
    "a probe that the kernel did not see",
    no("probe-unwitnessed: kernel notifications"),
    { scene: { asserted: { probeWitnessed: new Map() } } },
  ],
  [
    "keys without a token",
    no("token: tokens and keys"),
    { scene: { events: servingEvents().toSpliced(10, 1), asserted: { tokens: [], shims: [] } } },
  ],
  [
    "a token without keys",
    no("token: tokens and keys"),
    { scene: { events: servingEvents().toSpliced(11, 1), asserted: { keys: [] } } },
  ],
  [
    "a second key, of a token that nobody names",
    no("token: key stray"),
    (() => {
      const stray = { ...servedKey, name: "stray", token: "absent" };
      const events = servingEvents().toSpliced(11, 0, launchEvent("key", stray.name, measureKey(stray)));
      return { scene: { events, asserted: { tokens: [token], keys: [stray, servedKey] } } };
    })(),
  ],
  [
    "a key that is not sensitive",
    no("key-attributes: key release sensitive"),
    servingKey({ ...past, sensitive: false, extractable: false }),
  ],
  [
    "a key that does not say whether it is sensitive",
    no("key-attributes: key release sensitive"),
    servingKey({ ...past, extractable: false }),
  ],
  [
    "a key that is extractable",
    no("key-attributes: key release extractable"),
    servingKey({ ...past, sensitive: true, extractable: true }),
  ],
  [
    "a key that does not say whether it is extractable",
    no("key-attributes: key release extractable"),
    servingKey({ ...past, sensitive: true }),
  ],
  ["a key that was not always sensitive", unsure("alwaysSensitive"), remembering({ alwaysSensitive: false })],
  ["a key that was extractable once", unsure("neverExtractable"), remembering({ neverExtractable: false })],
  ["a key that was made elsewhere", unsure("local"), remembering({ local: false })],
  ["a key of unknown history", unsure(...Object.keys(past)), servingKey({ sensitive: true, extractable: false })],
  ...Object.keys(past).map(
    (attribute): Condition => [
      `a key that is not known to be ${attribute}, where the policy asks for it,`,
      [
        ...no(`key-attributes: key release ${attribute}`),
        ...unsure(...Object.keys(past).filter((name) => name !== attribute)),
      ],
      { ...servingKey({ sensitive: true, extractable: false }), policy: { keyAttributes: { [attribute]: true } } },
    ],
  ),
];

const many = Array.from({ length: 12 }, (_, index) => `call${index}`);
const manyNames = many.map((name) => `signing/0 ${name}`);
const replaced = (index: number, event: ReturnType<typeof launchEvent>) => ({
  scene: { events: servingEvents().toSpliced(index, 1, event) },
});
/** The honest machine's event in this place. */
const honest = (index: number) => referenceEvents()[index] ?? launchEvent("config", "", other);
const conf = honest(7);
const eventRows: readonly Condition[] = [
  [
    "an event of another kind with the same name and digest",
    no("event-order: file /etc/softhsm2.conf"),
    replaced(7, launchEvent("closure", conf.name, conf.sha256)),
  ],
  [
    "an event of another name with the same kind and digest",
    no("event-order: file /etc/softhsm2.conf"),
    replaced(7, launchEvent("file", "/etc/other.conf", conf.sha256)),
  ],
  [
    "an event of another digest with the same kind and name",
    no("event-mismatch: file /etc/softhsm2.conf"),
    replaced(7, launchEvent("file", conf.name, other)),
  ],
  [
    "two events that changed places",
    no("event-order: file /etc/softhsm2.conf", "event-order: environment softhsm"),
    { scene: { events: servingEvents().toSpliced(7, 2, honest(8), conf) } },
  ],
  [
    "a token after the cap",
    no("event-order: token signing"),
    { scene: { events: [...servingEvents().toSpliced(10, 1), ...servingEvents().slice(10, 11)] } },
  ],
  [
    "a key before a measurement",
    no("event-order: devices devices"),
    {
      scene: {
        events: [
          ...referenceEvents().slice(0, 9),
          ...servingEvents().slice(10, 12),
          honest(9),
          ...servingEvents().slice(12),
        ],
      },
    },
  ],
  [
    "a cap after what happens later",
    [...no("event-order: cap serving"), "warning shim-replaced: shim of token signing"],
    {
      scene: {
        events: [...servingEvents().slice(0, 12), incidentEvent(replacement), ...servingEvents().slice(12)],
        asserted: { incidents: [replacement] },
      },
    },
  ],
  [
    "violations that were counted under several calls",
    no("violations: violations (bpf, ptrace)"),
    {
      scene: {
        asserted: {
          violations: new Map([
            ["ptrace", 2],
            ["bpf", 2],
          ]),
        },
      },
      policy: { maxViolations: 3 },
    },
  ],
  [
    "violations up to what the policy tolerates",
    ["warning violations: violations (ptrace)"],
    { scene: { asserted: { violations: new Map([["ptrace", 3]]) } }, policy: { maxViolations: 3 } },
  ],
  [
    "events that outnumber the counts",
    no("violations: violations (signing/0 ptrace, signing/0 bpf, ptrace)"),
    {
      scene: {
        incidents: [attempt("ptrace"), attempt("bpf")],
        asserted: { violations: new Map([["ptrace", 1]]) },
      },
      policy: { maxViolations: 1 },
    },
  ],
];

const flood = { violations: new Map([["ptrace", 100]]) };
const gone = (count: number) => Array.from({ length: count }, () => device("removed"));
const deviceRows: readonly Condition[] = [
  [
    "a device that came, where calls are tolerated,",
    no("violations: device usb:08e6:4433"),
    { scene: { incidents: [device("added")] }, policy: { maxViolations: 100 } },
  ],
  [
    "a device that came among as many tolerated calls",
    [...no("violations: device usb:08e6:4433"), "warning violations: violations (signing/0 ptrace, ptrace)"],
    { scene: { incidents: [attempt("ptrace"), device("added")], asserted: flood }, policy: { maxViolations: 100 } },
  ],
  [
    "a device that came after calls of more names than a finding has",
    no("violations: device usb:08e6:4433", `violations: violations (${manyNames.slice(0, 8).join(", ")})`),
    { scene: { incidents: [...many.map(attempt), device("added")] } },
  ],
  [
    "a device that came, went and came again",
    [
      ...no("violations: device usb:08e6:4433"),
      "warning violations: device usb:08e6:4433",
      ...no("violations: device usb:08e6:4433"),
    ],
    { scene: { incidents: [device("added"), device("removed"), device("added")] } },
  ],
  [
    "devices that went, one fewer than are recorded",
    gone(7).map(() => "warning violations: device usb:08e6:4433"),
    { scene: { incidents: gone(7) } },
  ],
  [
    "devices that went, as many as are recorded, so that one could come unseen,",
    [...gone(8).map(() => "warning violations: device usb:08e6:4433"), ...no("violations: devices")],
    { scene: { incidents: gone(8) } },
  ],
  [
    "a device that went where calls are not tolerated",
    ["warning violations: device usb:08e6:4433"],
    { scene: { incidents: [device("removed")] } },
  ],
  [
    "as many calls as are tolerated, beside a device that went,",
    ["warning violations: device usb:08e6:4433", "warning violations: violations (signing/0 ptrace)"],
    { scene: { incidents: [attempt("ptrace"), device("removed")] }, policy: { maxViolations: 1 } },
  ],
];

describe("each condition of a finding by itself", () => {
  it.each([...releaseRows, ...shimRows, ...eventRows, ...deviceRows])(
    "I9: %s gives exactly its own findings",
    async (_title, findings, setting) => {
      expect(await findingsOf(setting)).toEqual(findings);
    },
  );

  it("I9: the probes that a shim must have tried are these", () => {
    expect(requiredProbes).toEqual(["execve", "ptrace", "io_uring_setup", "bpf", "mount", "unshare"]);
  });

  it("I9: a launch that ended and capped as refused has not the cap that belongs to it", async () => {
    const events = [...servingEvents().slice(0, -1), launchEvent("cap", "refused", other)];
    const found = await findingsOf({ scene: { events, launch: "stopped" } });
    expect(found).toEqual(no("cap: cap events", "launch-state: launch"));
  });

  it("I9: a launch that ended and capped twice has one cap too many", async () => {
    const events = [...servingEvents(), launchEvent("cap", "serving", other)];
    const found = await findingsOf({ scene: { events, launch: "stopped" } });
    expect(found).toEqual(no("cap: cap events", "launch-state: launch"));
  });

  it("I9: a launch that measured no profile is refused by a policy that lists one, and none where it lists none", async () => {
    const scene = { events: [launchEvent("cap", "refused", other)], launch: "refused" as const };
    const asserted = { tokens: [], keys: [] };
    const judged = await findingsOf({ scene: { ...scene, asserted }, policy: { profiles: ["11".repeat(32)] } });
    expect(judged).toContain("contraindicated profile-not-accepted: profile");
    expect((await findingsOf(refusedLaunch)).join()).not.toContain("profile-not-accepted");
  });

  it("I9: a class of TPM below the policy's is refused, by each step", async () => {
    const classes = ["software-tpm", "provider-ek", "hardware-ek"] as const;
    for (const [has, assurance] of classes.entries())
      for (const [wants, minAssurance] of classes.entries())
        expect(await findingsOf({ assurance, policy: { minAssurance } })).toEqual(
          has < wants ? no("assurance: assurance class") : [],
        );
  });

  it("the honest machine that these rows change is without findings", async () => {
    expect(await findingsOf({ now: inTime, references: [makeReference()] })).toEqual([]);
  });
});
