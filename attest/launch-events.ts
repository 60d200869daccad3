import { AGENT_PCR, type CborValue, decodeCbor, encodeCbor, preUnsealKinds, sha256, utf8 } from "../policy/index.ts";
import { extendPcr, hashInBank, type PcrBank, resetValue } from "./banks.ts";
import { AttestError } from "./errors.ts";

/** Measured after the login and before the cap. */
export const loginKinds = ["token", "key"] as const;
/** The cap ends the launch; its name is "serving" or "refused". */
export const capKind = "cap" as const;
/** Measured when they happen, after the cap. */
const laterKinds = ["violation", "shim-replaced", "narrowed", "anchor"] as const;

export const allKinds = [...preUnsealKinds, ...loginKinds, capKind, ...laterKinds] as const;

export type LaunchEventKind = (typeof allKinds)[number];

/** One thing that the agent measured. `sha256` is over the thing itself, whatever the bank. */
export interface LaunchEvent {
  readonly kind: LaunchEventKind;
  /** A path, a key's or token's name, or "serving"; at most 4096 bytes of UTF-8. */
  readonly name: string;
  /** 32 bytes. */
  readonly sha256: Uint8Array;
}

const preUnseal: ReadonlySet<string> = new Set(preUnsealKinds);

/** Measured before the unseal: what a release predicts. */
export function isPreUnseal({ kind }: Pick<LaunchEvent, "kind">): boolean {
  return preUnseal.has(kind);
}

export function isLaunchEventKind(kind: string): kind is LaunchEventKind {
  return (allKinds as readonly string[]).includes(kind);
}

export function launchEvent(kind: LaunchEventKind, name: string, sha256: Uint8Array): LaunchEvent {
  return { kind, name, sha256 };
}

/** Canonical CBOR of `{"kind","name","sha256"}`: the content that is hashed into the agent PCR. */
export function encodeLaunchEvent(event: LaunchEvent): Uint8Array {
  if (event.sha256.length !== 32) throw new TypeError(`launch event sha256: ${event.sha256.length} bytes, not 32`);
  return encodeCbor(
    new Map<string, CborValue>([
      ["kind", event.kind],
      ["name", event.name],
      ["sha256", event.sha256],
    ]),
  );
}

/** @throws AttestError `ERR_LAUNCH_EVENT`, or PolicyError `ERR_CBOR_MALFORMED` */
export function parseLaunchEvent(bytes: Uint8Array): LaunchEvent {
  const map = decodeCbor(bytes, {
    bytes: 8192,
    string: 4096,
    items: 16,
    depth: 2,
  });
  if (!(map instanceof Map) || map.size !== 3) throw malformed("a map of kind, name and sha256");
  const kind = map.get("kind");
  const name = map.get("name");
  const digest = map.get("sha256");
  if (typeof kind !== "string" || !isLaunchEventKind(kind)) throw malformed("a known kind", String(kind));
  if (typeof name !== "string") throw malformed("a name");
  if (!(digest instanceof Uint8Array) || digest.length !== 32) throw malformed("a sha256 of 32 bytes");
  return { kind, name, sha256: digest };
}

/** What is extended into the agent PCR of each bank: H_bank(encoded content). */
export function launchEventDigests(event: LaunchEvent): Readonly<Record<PcrBank, Uint8Array>> {
  const content = encodeLaunchEvent(event);
  return {
    sha256: hashInBank("sha256", content),
    sha384: hashInBank("sha384", content),
  };
}

/**
 * The agent PCR after these events, from its reset value. Pure twin of extending them in a TPM.
 * Does not say that the events are good, nor that any TPM holds this value.
 */
export function predictAgentPcr(events: readonly LaunchEvent[]): Readonly<Record<PcrBank, Uint8Array>> {
  const extend = (bank: PcrBank) =>
    events.reduce((pcr, event) => extendPcr(bank, pcr, launchEventDigests(event)[bank]), resetValue(bank, AGENT_PCR));
  return { sha256: extend("sha256"), sha384: extend("sha384") };
}

/** SHA-256 of the sorted "K=V\n" lines: the digest of an `environment` event. */
export function measureEnvironment(environment: Readonly<Record<string, string>>): Uint8Array {
  return measureLines(Object.entries(environment).map(([key, value]) => `${key}=${value}`));
}

/** SHA-256 of the sorted "vvvv:dddd\n" (PCI) and "usb:vvvv:pppp\n" lines: the digest of a `devices` event. A multiset. */
export function measureDevices(devices: readonly string[]): Uint8Array {
  return measureLines(devices);
}

function measureLines(lines: readonly string[]): Uint8Array {
  return sha256(
    utf8(
      lines
        .toSorted(byCodeUnit)
        .map((line) => `${line}\n`)
        .join(""),
    ),
  );
}

// Not localeCompare: the order must not depend on the machine's language.
function byCodeUnit(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

function malformed(expected: string, got?: string): AttestError {
  return new AttestError("ERR_LAUNCH_EVENT", "launch event", {
    expected,
    ...(got === undefined ? {} : { got }),
  });
}
