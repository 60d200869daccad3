import { type PolicyModule, toHex } from "../policy/index.ts";
import type { Pin } from "./closure.ts";
import { AttestError } from "./errors.ts";
import { measureDevices, measureEnvironment } from "./launch-events.ts";

/** The part of the policy that pins the PKCS#11 library. Digests are lower-case hex SHA-256. */
export type ModulePolicy = Pick<PolicyModule, "path" | "sha256" | "closure" | "config" | "environment">;

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

function sorted(map: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(Object.entries(map).sort(([a], [b]) => (a < b ? -1 : 1)));
}
