import {
  type DeviceViolation,
  type LaunchEvent,
  launchEvent,
  measureKey,
  type ShimClaim,
  type ShimReplacement,
  type SyscallViolation,
} from "../../attest/index.ts";
import { concatBytes, sha256, toHex, utf8 } from "../../policy/index.ts";
import { judge, type Setting, withoutPcrs } from "./appraisal.ts";
import { referenceEvents, servedKey, servingEvents, shim, shimProcess, token } from "./evidence-maker.ts";
import { logEvent, logHeader, separatorType, typicalLog } from "./firmware-log-writer.ts";

/** A setting in which exactly this code is found, among others where they follow from it. */
export type Row = readonly [title: string, code: string, setting: Setting];

/** One condition of a finding that has several: exactly these findings, and no other. */
export type Condition = readonly [title: string, findings: readonly string[], setting: Setting];

export const findingsOf = async (setting: Setting) =>
  (await judge(setting)).findings.map(({ tier, code, item }) => `${tier} ${code}: ${item}`);
export const no = (...found: readonly string[]) => found.map((each) => `contraindicated ${each}`);
export const referenced = ({ kind, name, sha256 }: LaunchEvent) => ({
  ...{ kind: kind as "config", name, sha256: toHex(sha256) },
});

export const other = sha256(utf8("other"));
const library = "/usr/lib/libsofthsm2.so";
const withEvent = (index: number, event: ReturnType<typeof launchEvent>) => servingEvents().toSpliced(index, 1, event);
export const later = (kind: "anchor" | "narrowed", name: string) => [
  ...servingEvents(),
  launchEvent(kind, name, other),
];
export const attempt = (syscall: string): SyscallViolation => ({
  ...{ what: "syscall", token: token.name, shim: 0, syscall, nr: 101, args: [0n, 1n, 2n, 3n, 4n, 5n] },
  ...{ thread: 7, count: 1 },
});
export const device = (change: DeviceViolation["change"]): DeviceViolation => ({
  ...{ what: "device", device: "usb:08e6:4433", change },
});
export const replacement: ShimReplacement = { what: "replacement", token: token.name, from: 0, to: 1, why: "it ended" };

/** The honest machine with another process of its shim. */
export function shimWith(changes: Partial<NonNullable<ShimClaim["process"]>> | null): Setting {
  const process = changes === null ? null : { ...shimProcess, ...changes };
  return { scene: { asserted: { shims: [{ ...shim, process }] } } };
}

/** The honest machine's library as a policy pins it. */
export function pinnedLibrary(): { name: string; sha256: string; closure: Record<string, string> } {
  const events = referenceEvents();
  const closure = events
    .filter(({ kind }) => kind === "closure")
    .map(({ name, sha256: digest }) => [name, toHex(digest)]);
  const measured = events.find(({ kind }) => kind === "library");
  return { name: library, sha256: toHex(measured?.sha256 ?? other), closure: Object.fromEntries(closure) };
}

export function pinnedProfile(): string {
  return toHex(referenceEvents().find(({ kind }) => kind === "profile")?.sha256 ?? other);
}

/** A key with these attributes, measured as it is claimed. */
export function servingKey(attributes: Readonly<Record<string, boolean>>): Setting {
  const key = { ...servedKey, attributes };
  return { scene: { events: withEvent(11, launchEvent("key", key.name, measureKey(key))), asserted: { keys: [key] } } };
}

export const refusedLaunch: Setting = {
  scene: {
    events: [
      ...referenceEvents().toSpliced(4, 1, launchEvent("library", library, other)),
      launchEvent("cap", "refused", other),
    ],
    launch: "refused",
    asserted: {
      ...{ tokens: [], keys: [], shims: [] },
      reasons: [{ code: "library-mismatch", item: library, expected: "aa", got: "bb" }],
      unseal: [{ command: "TPM2_PolicyPCR", rc: "0x000001c4", text: "value out of range" }],
    },
  },
};

/** The honest machine's last report, one boot earlier. */
export const previous = {
  version: 2,
  ...{
    clock: "1000",
    resetCount: 2,
    restartCount: 0,
    bootSeed: "b1".repeat(16),
    firmwareVersion: "0000000020191023",
    epoch: "1",
  },
  audit: { seq: 3, hash: "aa".repeat(32) },
} as const;

const changed = [
  {
    ...{ name: library, sha256: "11".repeat(32) },
    closure: "as-released" as const,
  },
];

export const contraindicatedRows: readonly Row[] = [
  ["a verifier without any release", "release-not-accepted", { references: [] }],
  ["a release that the policy does not name", "release-not-accepted", { policy: { releases: ["another"] } }],
  ["a policy that names no release", "release-not-accepted", { policy: { releases: [] } }],
  ["a software TPM under the default policy", "assurance", { assurance: "software-tpm" }],
  ["a challenge that is too old", "stale", { age: 301 }],
  ["a challenge from the future", "stale", { age: -1 }],
  ["a challenge without a time", "stale", { age: Number.NaN }],
  ["a development image", "image-variant", { reference: { image: { id: "11".repeat(32), variant: "dev" } } }],
  ["any image under a policy that names no variant", "image-variant", { policy: { variants: [] } }],
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
  ["a release without a value for the command line", "pcr-no-reference", { reference: { pcrs: withoutPcrs("12") } }],
  ["firmware that extends nothing", "pcr-unextended", { scene: { firmwareLog: logHeader() } }],
  ["a challenge that leaves PCR 4 out", "pcr-not-quoted", { scene: { asked: [9, 11, 12, 13] } }],
  [
    "a challenge that leaves out a firmware PCR that the release has a value for",
    "pcr-not-quoted",
    { scene: { asked: [4, 9, 11, 12, 13] }, assurance: "hardware-ek" },
  ],
  ["a secure boot state without a reference value", "firmware-unpinned", { reference: { pcrs: withoutPcrs("7") } }],
  ["another library", "event-mismatch", { scene: { events: withEvent(4, launchEvent("library", library, other)) } }],
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
  ["a launch without a cap", "cap", { scene: { events: servingEvents().slice(0, -1), launch: "capping" } }],
  ["a library that the policy does not list", "library-not-accepted", { policy: { libraries: changed } }],
  ["any library under a policy that lists none", "library-not-accepted", { policy: { libraries: [] } }],
  [
    "a listed library under another path",
    "library-not-accepted",
    { policy: { libraries: [{ ...pinnedLibrary(), name: "/opt/lib.so" }] } },
  ],
  [
    "a closure with an object that the policy does not list",
    "library-not-accepted",
    { policy: { libraries: [{ ...pinnedLibrary(), closure: {} }] } },
  ],
  [
    "a closure without an object that the policy lists",
    "library-not-accepted",
    {
      policy: {
        libraries: [{ ...pinnedLibrary(), closure: { ...pinnedLibrary().closure, "/lib/x.so": "11".repeat(32) } }],
      },
    },
  ],
  [
    "a launch that measured no library under a policy that lists one",
    "library-not-accepted",
    {
      scene: { events: [launchEvent("cap", "refused", other)], launch: "refused", asserted: { tokens: [], keys: [] } },
      policy: { libraries: [pinnedLibrary()] },
    },
  ],
  ["a profile that the policy does not list", "profile-not-accepted", { policy: { profiles: ["11".repeat(32)] } }],
  ["any profile under a policy that lists none", "profile-not-accepted", { policy: { profiles: [] } }],
  ["a violation", "violations", { scene: { events: servingEvents(), incidents: [attempt("ptrace")] } }],
  ["a device that came", "violations", { scene: { incidents: [device("added")] }, policy: { maxViolations: 100 } }],
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
  ["a probe that the kernel did not see", "probe-unwitnessed", { scene: { asserted: { probeWitnessed: new Map() } } }],
  ["a shim that nobody looked at", "shim-process", shimWith(null)],
  ["a shim that is root", "shim-process", shimWith({ uid: 0, seccompFilters: 0, capabilities: "000001ffffffffff" })],
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
    "a key that could leave its token",
    "key-attributes",
    servingKey({ sensitive: true, extractable: true, neverExtractable: true }),
  ],
  [
    "a key without an attribute that the policy asks for",
    "key-attributes",
    { policy: { keyAttributes: { wrapWithTrusted: true } } },
  ],
  [
    "an attribute that is none of the key's own",
    "key-attributes",
    { policy: { keyAttributes: { constructor: true } } },
  ],
  ["a machine that has started again where that is refused", "rebooted", { previous, policy: { reboot: "refuse" } }],
  ["a launch that was refused", "launch-state", refusedLaunch],
  ["a launch with reasons of its own", "launch-library-mismatch", refusedLaunch],
  [
    "a launch with a reason whose code is none",
    "launch-other",
    {
      scene: {
        ...refusedLaunch.scene,
        asserted: {
          ...refusedLaunch.scene?.asserted,
          reasons: [{ code: "ERR_X", item: "a", expected: "b", got: "c" }],
        },
      },
    },
  ],
  ["a TPM that kept the PIN sealed", "launch-tpm-answer", refusedLaunch],
];

const twoSeparators = concatBytes(typicalLog(), logEvent(1, separatorType, new Uint8Array(4)));

const installed = { id: "11".repeat(32), variant: "installed" } as const;

export const warningRows: readonly Row[] = [
  [
    "a system that the package is installed on",
    "installed-system",
    { scene: { asserted: { image: installed } }, reference: { image: installed }, policy: { variants: ["installed"] } },
  ],
  ["a firmware PCR without a reference value", "firmware-unpinned", { reference: { pcrs: withoutPcrs("1") } }],
  [
    "a secure boot state without a reference value where the policy only warns",
    "firmware-unpinned",
    { reference: { pcrs: withoutPcrs("7") }, policy: { firmware: "warn" } },
  ],
  [
    "a PCR with two separators",
    "firmware-separator",
    { scene: { firmwareLog: twoSeparators }, reference: { pcrs: withoutPcrs("1") }, policy: { firmware: "waived" } },
  ],
  [
    "a tolerated violation",
    "violations",
    { scene: { events: servingEvents(), incidents: [attempt("ptrace")] }, policy: { maxViolations: 1 } },
  ],
  ["a device that went", "violations", { scene: { incidents: [device("removed")] } }],
  ["a replaced shim", "shim-replaced", { scene: { incidents: [replacement] } }],
  ["a shim that nobody took over from", "shim-replaced", { scene: { incidents: [{ ...replacement, to: -1 }] } }],
  [
    "a library that reaches an HSM on the network",
    "profile-exception",
    { scene: { asserted: { exceptions: ["module nethsm: tcp 192.0.2.7:1500 through the relay"] } } },
  ],
  ["a kernel without a part of the sandbox", "sandbox-weaker", { scene: { asserted: { lacks: ["landlock-tcp"] } } }],
  [
    "a key that was extractable once",
    "key-attributes",
    servingKey({ ...servedKey.attributes, neverExtractable: false }),
  ],
  ["a clock that may have gone back", "clock-unsafe", { scene: { attest: { safe: 0 } } }],
  ["a machine that has started again", "rebooted", { previous }],
  [
    "a software TPM whose clock was not saved before its last boot",
    "clock-lags",
    {
      previous: { ...previous, clock: "9000000" },
      assurance: "software-tpm",
      policy: { minAssurance: "software-tpm", reboot: "accept" },
    },
  ],
  [
    "another firmware of the TPM",
    "tpm-firmware",
    { previous: { ...previous, resetCount: 3, bootSeed: "b0".repeat(16), firmwareVersion: "0000000020191022" } },
  ],
];
