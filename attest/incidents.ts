import { type CborMap, type CborValue, encodeCbor, sha256 } from "../policy/index.ts";
import type { MapReader } from "./claims-reader.ts";
import type { LaunchEvent, LaunchEventKind } from "./launch-events.ts";

/** Incidents of one launch that are measured and told one by one. The counts go on after them. */
export const MAX_INCIDENTS = 64;

/** Of these, devices. The agent records no more of them, and counts none. */
export const MAX_DEVICE_INCIDENTS = 8;

/** Kinds of events that are incidents. */
export const incidentKinds = ["violation", "shim-replaced"] as const satisfies readonly LaunchEventKind[];

/** A call on the watch list that the kernel denied a shim, as its notification showed it. */
export interface SyscallViolation {
  readonly what: "syscall";
  readonly token: string;
  readonly shim: number;
  /** At most 48 characters. */
  readonly syscall: string;
  readonly nr: number;
  /** The call's six arguments, 64 bits each. What a pointer points to is not looked at. */
  readonly args: readonly bigint[];
  readonly thread: number;
  /** Such calls of this shim so far, this one included. */
  readonly count: number;
}

/** A device that came or went after the launch had measured the devices. */
export interface DeviceViolation {
  readonly what: "device";
  /** `vvvv:dddd` or `usb:vvvv:pppp` */
  readonly device: string;
  readonly change: (typeof deviceChanges)[number];
}

/** A shim that ended, and the one that took over. */
export interface ShimReplacement {
  readonly what: "replacement";
  readonly token: string;
  readonly from: number;
  /** -1: no spare was left. */
  readonly to: number;
  readonly why: string;
}

export type Incident = SyscallViolation | DeviceViolation | ShimReplacement;

const deviceChanges = ["added", "removed"] as const;
const ARGUMENTS = 6;
const MAX_TEXT = 48;
/** UTF-16 code units. */
export const MAX_WHY = 200;
const DEVICE = /^(?:usb:)?[0-9a-f]{4}:[0-9a-f]{4}$/;
const DEVICE_NAME = "device ";

/** The event that measures an incident: its digest is over the incident's entry in the claims. */
export function incidentEvent(incident: Incident): LaunchEvent {
  const kind = incident.what === "replacement" ? "shim-replaced" : "violation";
  return { kind, name: incidentName(incident), sha256: sha256(encodeCbor(encodeIncident(incident))) };
}

/** The name of its event. */
export function incidentName(incident: Incident): string {
  switch (incident.what) {
    case "syscall":
      return `${incident.token}/${incident.shim} ${incident.syscall}`;
    case "device":
      return `${DEVICE_NAME}${incident.device}`;
    case "replacement":
      return incident.token;
  }
}

/** An entry of the claim `incidents`: {kind, name, detail}. */
export function encodeIncident(incident: Incident): CborMap {
  const { what, ...detail } = incident;
  const kind = what === "replacement" ? "shim-replaced" : "violation";
  return new Map<string, CborValue>([
    ["kind", kind],
    ["name", incidentName(incident)],
    ["detail", new Map(Object.entries(detail))],
  ]);
}

/** @throws AttestError `ERR_CLAIMS_MALFORMED` */
export function readIncident(map: MapReader): Incident {
  const kind = map.oneOf("kind", incidentKinds);
  const name = map.text("name");
  const detail = map.map("detail");
  const incident =
    kind === "shim-replaced"
      ? parseReplacement(detail)
      : name.startsWith(DEVICE_NAME)
        ? parseDevice(detail)
        : parseSyscall(detail);
  for (const reader of [detail, map]) reader.end();
  // The name says nothing that the detail does not: another one would be for people only, and lie to them.
  if (incidentName(incident) !== name) throw map.malformed("name", incidentName(incident), name);
  return incident;
}

function parseSyscall(detail: MapReader): SyscallViolation {
  const args = detail.array("args", ARGUMENTS).map((value) => value.asWideCount());
  if (args.length !== ARGUMENTS) throw detail.malformed("args", `${ARGUMENTS} arguments`, `${args.length}`);
  return {
    what: "syscall",
    token: detail.shortText("token", MAX_TEXT),
    shim: detail.count("shim"),
    syscall: detail.shortText("syscall", MAX_TEXT),
    nr: detail.count("nr"),
    args,
    thread: detail.count("thread"),
    count: detail.count("count"),
  };
}

function parseDevice(detail: MapReader): DeviceViolation {
  const device = detail.text("device");
  if (!DEVICE.test(device)) throw detail.malformed("device", "vvvv:dddd or usb:vvvv:pppp", device);
  return { what: "device", device, change: detail.oneOf("change", deviceChanges) };
}

function parseReplacement(detail: MapReader): ShimReplacement {
  return {
    what: "replacement",
    token: detail.shortText("token", MAX_TEXT),
    from: detail.count("from"),
    to: detail.place("to"),
    why: detail.shortText("why", MAX_WHY),
  };
}
