import * as z from "zod";
import { type Endpoint, parseEndpoint } from "./endpoint.ts";
import { type DocumentFinding, findingsAt, findingsIn, listed, repeatFindings } from "./findings.ts";
import { credential, type DeepReadonly, digests, hex64, name, path, printable } from "./policy-fields.ts";

const MAX_MODULES = 4;
const MAX_NODES = 8;
const MAX_ENDPOINTS = 8;
/** All that a machine has room for, whichever tokens they are of (SPAWNER.md). */
export const MACHINE_SHIMS = 16;

/** Sandbox profiles, the narrowest first. */
export const PROFILE_NAMES = ["local", "usb", "relay"] as const;
export type ProfileName = (typeof PROFILE_NAMES)[number];

/** A PCI function or a USB device, by vendor and product. */
export const deviceId: z.ZodString = z
  .string()
  .regex(/^(?:usb:)?[0-9a-f]{4}:[0-9a-f]{4}$/, "expected vvvv:dddd or usb:vvvv:pppp in lower-case hexadecimal");
const node = z
  .string()
  .max(128)
  .refine(
    (text) => /^usb:[0-9a-f]{4}:[0-9a-f]{4}$/.test(text) || isDevicePath(text),
    "expected /dev/NAME or usb:vvvv:pppp",
  );
const endpoint = z
  .string()
  .max(256)
  .refine(
    (text) => parseEndpoint(text) !== null,
    "expected a path, or an IPv4 or [IPv6] address in its shortest form with a port",
  );

/** What is hashed of a module. */
export const pinFields = {
  path,
  sha256: hex64,
  closure: digests,
  config: digests,
  environment: z.record(z.string().regex(/^[A-Za-z_][A-Za-z0-9_]*$/), printable(4096)),
};
/** What its shims may reach. */
export const reachFields = {
  profile: z.strictObject({ name: z.enum(PROFILE_NAMES), sha256: hex64 }),
  nodes: z.array(node).max(MAX_NODES),
  writable: z.array(path).max(16),
  connect: z.array(z.strictObject({ listen: endpoint, to: endpoint })).max(MAX_ENDPOINTS),
  shims: z.int().min(1).max(8).default(1),
  spares: z.int().min(0).max(3),
};
/** Path below a writable directory -> the sealed credential that is written there. */
export const credentialFiles: z.ZodRecord<z.ZodString, z.ZodString> = z.record(path, credential);
export const moduleSchema = z.strictObject({ ...pinFields, ...reachFields, files: credentialFiles });
export const modulesSchema = z
  .record(name, moduleSchema)
  .refine((modules) => isBetween(Object.keys(modules).length, 1, MAX_MODULES), `expected 1 to ${MAX_MODULES} modules`);

export type PolicyModule = DeepReadonly<z.infer<typeof moduleSchema>>;
type Modules = Readonly<Record<string, PolicyModule>>;

/** What is wrong with the modules beyond their fields' own ranges. */
export function moduleFindings(modules: Modules, devices: readonly string[]): readonly DocumentFinding[] {
  return [
    ...Object.entries(modules).flatMap(([name, module]) =>
      findingsIn(["modules", name], `modules.${name}`, [
        ...pinFindings(module),
        ...reachFindings(module),
        ...deviceFindings(module, devices),
      ]),
    ),
    ...digestFindings(modules),
  ];
}

function pinFindings({ path, closure, config, writable, files }: PolicyModule): readonly DocumentFinding[] {
  const pinned = [
    { value: path, path: ["path"] },
    ...Object.keys(closure).map((value) => ({ value, path: ["closure", value] })),
    ...Object.keys(config).map((value) => ({ value, path: ["config", value] })),
  ];
  return [
    ...repeatFindings(pinned, (double) => `${double} is listed twice`),
    ...Object.keys(files)
      .filter((file) => !writable.some((directory) => isBelow(file, directory)))
      .map((file) => ({ path: ["files", file], message: `files: ${file} is in no writable directory` })),
  ];
}

/** A profile opens one kind of way out, and a module that has none to name takes the narrowest. */
function reachFindings({ profile, nodes, connect }: PolicyModule): readonly DocumentFinding[] {
  const [wantsNodes, wantsConnect] = [profile.name === "usb", profile.name === "relay"];
  const misfit = (field: string, wanted: boolean, count: number) => {
    if (wanted === count > 0) return [];
    const message = `${field}: profile ${profile.name} has ${wanted ? "at least one" : "none"}`;
    return [{ path: [field], message }];
  };
  return [
    ...misfit("nodes", wantsNodes, nodes.length),
    ...misfit("connect", wantsConnect, connect.length),
    ...repeatFindings(listed(["nodes"], nodes), (double) => `nodes: ${double} is listed twice`),
    ...repeatFindings(
      connect.map(({ listen }, index) => ({ value: listen, path: ["connect", index, "listen"] })),
      (double) => `connect: two listeners on ${double}`,
    ),
    ...connect.flatMap(({ listen, to }, index) =>
      findingsAt(["connect", index, "listen"], endpointFindings(listen, parseEndpoint(listen), parseEndpoint(to))),
    ),
  ];
}

function endpointFindings(text: string, listen: Endpoint | null, to: Endpoint | null): readonly string[] {
  if (listen === null || to === null) return []; // a finding of the field already
  if (listen.kind !== to.kind) return [`connect: ${text} is of another kind than what it leads to`];
  if (listen.kind === "tcp" && !listen.loopback) return [`connect: ${text} is no loopback address`];
  return [];
}

/** `devices` is complete, so a device of the shim's stands in it. */
function deviceFindings({ nodes }: PolicyModule, devices: readonly string[]): readonly DocumentFinding[] {
  return nodes.flatMap((node, index) => {
    if (!node.startsWith("usb:") || devices.includes(node)) return [];
    return [{ path: ["nodes", index], message: `nodes: ${node} is not among the devices` }];
  });
}

/** The cabinet has one file of a path, and the image one profile of a name: two digests of it can never both be measured. */
function digestFindings(modules: Modules): readonly DocumentFinding[] {
  const seen = new Map<string, string>();
  const pins = Object.entries(modules).flatMap(([name, { path, sha256, closure, config, profile }]) => [
    { what: path, digest: sha256, at: ["modules", name, "sha256"] },
    ...Object.entries(closure).map(([what, digest]) => ({ what, digest, at: ["modules", name, "closure", what] })),
    ...Object.entries(config).map(([what, digest]) => ({ what, digest, at: ["modules", name, "config", what] })),
    { what: `profile ${profile.name}`, digest: profile.sha256, at: ["modules", name, "profile", "sha256"] },
  ]);
  return pins.flatMap(({ what, digest, at }) => {
    const first = seen.get(what) ?? digest;
    seen.set(what, first);
    return first === digest ? [] : [{ path: at, message: `modules: two digests of ${what}` }];
  });
}

function isDevicePath(text: string): boolean {
  return /^\/dev(?:\/[A-Za-z0-9][A-Za-z0-9._-]*)+$/.test(text);
}

function isBelow(file: string, directory: string): boolean {
  return file.startsWith(`${directory}/`);
}

function isBetween(value: number, min: number, max: number): boolean {
  return value >= min && value <= max;
}
