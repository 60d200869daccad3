import { type Policy, toHex } from "../policy/index.ts";
import type { Pin } from "./closure.ts";
import { AttestError } from "./errors.ts";
import { type LaunchEventKind, measureDevices, measureEnvironment } from "./launch-events.ts";

/** The part of the policy that pins the PKCS#11 library. Digests are lower-case hex SHA-256. */
export type ModulePolicy = Policy["module"];

/** What is compared with a policy: the module as found, and the PCI devices as found. */
export interface MeasuredModule {
  readonly module: ModulePolicy;
  /** `vvvv:dddd`, sorted. */
  readonly devices: readonly string[];
}

/** One measured thing that differs from the policy. */
export interface Mismatch {
  readonly kind: Extract<LaunchEventKind, "library" | "closure" | "file" | "environment" | "devices">;
  /** Path, variable or device list that differs. */
  readonly name: string;
  /** What the policy says; "absent" when it does not list the thing. */
  readonly expected: string;
  /** What was found; "absent" when it was not there. */
  readonly got: string;
}

/** The policy's `module` fragment for a pinned library with its configuration files (path -> hex digest) and environment. */
export function modulePolicy(
  pin: Pin,
  config: Readonly<Record<string, string>>,
  environment: Readonly<Record<string, string>>,
): ModulePolicy {
  return {
    path: pin.path,
    sha256: pin.sha256,
    closure: sorted(pin.closure),
    config: sorted(config),
    environment: sorted(environment),
  };
}

/** SHA-256 of the environment, hex. A line feed or NUL in a value would make two environments hash alike: refused. */
export function environmentDigest(environment: Readonly<Record<string, string>>): string {
  for (const [name, value] of Object.entries(environment)) {
    if (/^[A-Za-z_][A-Za-z0-9_]*$/.test(name) && !/[\n\0]/.test(value)) continue;
    throw new AttestError("ERR_MEASURE", `environment ${JSON.stringify(name)}`, {
      expected: "a name of letters, digits and _, and a value of one line",
      got: "another",
    });
  }
  return toHex(measureEnvironment(environment));
}

/** SHA-256 of the sorted device multiset, hex. */
export function devicesDigest(devices: readonly string[]): string {
  return toHex(measureDevices(devices));
}

/**
 * Everything in which `got` differs from `policy`, in measuring order; empty when they are equal. Lists all differences, so
 * that an operator sees the whole change at once.
 * Does not establish that `policy` is the right policy: the TPM decides that, by the measured value of the document.
 */
export function compareModule(policy: MeasuredModule, got: MeasuredModule): Mismatch[] {
  const expected = policy.module;
  const found = got.module;
  return [
    ...compareMaps("library", { [expected.path]: expected.sha256 }, { [found.path]: found.sha256 }),
    ...compareMaps("closure", expected.closure, found.closure),
    ...compareMaps("file", expected.config, found.config),
    ...compareMaps("environment", expected.environment, found.environment),
    ...compareDevices(policy.devices, got.devices),
  ];
}

function compareMaps(
  kind: Mismatch["kind"],
  expected: Readonly<Record<string, string>>,
  got: Readonly<Record<string, string>>,
): Mismatch[] {
  const names = [...new Set([...Object.keys(expected), ...Object.keys(got)])].sort();
  return names
    .map((name) => ({
      kind,
      name,
      expected: entry(expected, name),
      got: entry(got, name),
    }))
    .filter((item) => item.expected !== item.got);
}

function compareDevices(expected: readonly string[], got: readonly string[]): Mismatch[] {
  const [wanted, present] = [expected.toSorted(), got.toSorted()];
  if (wanted.join() === present.join()) return [];
  const extra = without(present, wanted);
  const missing = without(wanted, present);
  const name = [...extra.map((device) => `+${device}`), ...missing.map((device) => `-${device}`)].join(" ");
  return [
    {
      kind: "devices",
      name,
      expected: wanted.join(" ") || "none",
      got: present.join(" ") || "none",
    },
  ];
}

/** Multiset difference. */
function without(all: readonly string[], removed: readonly string[]): string[] {
  const left = [...all];
  for (const item of removed) {
    const at = left.indexOf(item);
    if (at >= 0) left.splice(at, 1);
  }
  return left;
}

function entry(map: Readonly<Record<string, string>>, name: string): string {
  return Object.hasOwn(map, name) ? (map[name] ?? "absent") : "absent";
}

function sorted(map: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(Object.entries(map).sort(([a], [b]) => (a < b ? -1 : 1)));
}
