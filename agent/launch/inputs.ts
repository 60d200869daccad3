import { type Reason, reason, reasonFrom } from "../../attest/index.ts";
import {
  type Anchors,
  type BundleEntry,
  type Cabinet,
  type CabinetSlot,
  type Policy,
  parseAnchors,
  parseBundle,
  parseJson,
  parsePolicy,
  type Release,
  type SlotName,
  verifyReleaseSignatures,
} from "../../policy/index.ts";
import { type ChosenCredentials, type Credential, chooseCredentials, type StoreContent } from "../../seal/index.ts";
import { AgentError } from "../errors.ts";

/** A file of a cabinet bundle, with its place on the cabinet so that the spawner can copy it from the device. */
export interface CabinetFile {
  readonly path: string;
  readonly offset: number;
  readonly length: number;
}

/** What the operator put into the cabinet, read once. Bytes are kept: what is measured is what was parsed. */
export interface LaunchInputs {
  readonly anchorsBytes: Uint8Array;
  readonly policyBytes: Uint8Array;
  readonly anchors: Anchors;
  readonly policy: Policy;
  /** Releases whose signatures hold, at least one. Which of them applies, the measurements say. */
  readonly releases: readonly Release[];
  /** The newest generation of each sealed credential, by name. */
  readonly credentials: ReadonlyMap<string, Credential>;
  readonly module: readonly CabinetFile[];
  readonly token: readonly CabinetFile[];
  readonly machine: string;
}

export interface ReadInputs {
  /** Everything that could be read. Complete when `reasons` is empty. */
  readonly partial: Partial<LaunchInputs>;
  readonly reasons: readonly Reason[];
}

/**
 * Read and check every document of the cabinet. One damaged document does not hide what is wrong with the next.
 * @param store what the machine has kept of its credentials
 */
export async function readInputs(cabinet: Cabinet, store: StoreContent): Promise<ReadInputs> {
  const reasons: Reason[] = [];
  const attempt = async <T>(item: string, act: () => T | Promise<T>): Promise<T | undefined> => {
    try {
      return await act();
    } catch (error) {
      reasons.push(reasonFrom(error, item));
      return undefined;
    }
  };
  const slot = (name: SlotName): CabinetSlot => {
    const found = cabinet.slot(name);
    if (found !== null) return found;
    const fields = { expected: "a document", got: "an empty slot" };
    throw new AgentError("ERR_ENVIRONMENT", `cabinet slot ${name}`, fields);
  };

  const anchorsBytes = await attempt("anchors", () => slot("anchors").bytes);
  const policyBytes = await attempt("policy", () => slot("policy").bytes);
  const anchors = anchorsBytes && (await attempt("anchors", () => parseAnchors(anchorsBytes)));
  const policy = policyBytes && (await attempt("policy", () => parsePolicy(policyBytes)));
  const releases = anchors && (await attempt("release", () => readReleases(cabinet.slot("release"), anchors, reasons)));
  const chosen = anchors && (await attempt("sealed", () => readCredentials(cabinet.slot("sealed"), anchors, store)));
  reasons.push(...(chosen?.findings ?? []));
  const module = await attempt("module", () => filesOf(slot("module")));
  const token = await attempt("token", () => filesOf(cabinet.slot("token")));
  const machine = await attempt("machine", () => machineName(cabinet.slot("machine")));

  const credentials = chosen?.byName;
  const partial = { anchorsBytes, policyBytes, anchors, policy, releases, credentials, module, token, machine };
  return { partial: withoutUndefined(partial), reasons };
}

/** One release that holds is enough; what is wrong with the others matters only when there is none. */
async function readReleases(
  slot: CabinetSlot | null,
  anchors: Anchors,
  reasons: Reason[],
): Promise<readonly Release[] | undefined> {
  const releases: Release[] = [];
  const problems: Reason[] = [];
  for (const { path, bytes } of slot === null ? [] : parseBundle(slot.bytes)) {
    try {
      releases.push(await verifyReleaseSignatures(bytes, anchors.releaseRoot));
    } catch (error) {
      problems.push(releaseProblem(error, path));
    }
  }
  if (releases.length > 0) return releases;
  if (problems.length === 0) problems.push(reason("release-missing", "release", "at least one", "none"));
  reasons.push(...problems);
  return undefined;
}

const UNTRUSTED: ReadonlySet<string> = new Set(["ERR_RELEASE_SIGNATURE", "ERR_ENVELOPE_SIGNATURE"]);

function releaseProblem(error: unknown, path: string): Reason {
  const { code, expected, got } = reasonFrom(error, path);
  return reason(UNTRUSTED.has(code) ? "release-not-trusted" : "release-malformed", path, expected, got);
}

/** An empty slot leaves what the machine has kept; a credential that is in neither is missed by its name. */
function readCredentials(slot: CabinetSlot | null, anchors: Anchors, store: StoreContent): Promise<ChosenCredentials> {
  return chooseCredentials(anchors, slot === null ? [] : parseBundle(slot.bytes), store);
}

function filesOf(slot: CabinetSlot | null): CabinetFile[] {
  if (slot === null) return [];
  return parseBundle(slot.bytes).map((entry: BundleEntry) => ({
    path: entry.path,
    offset: slot.offset + entry.offset,
    length: entry.bytes.length,
  }));
}

/** The machine's name is a claim: it widens nothing, and a report says so. */
function machineName(slot: CabinetSlot | null): string {
  if (slot === null) return "unnamed";
  const document = parseJson(slot.bytes, "machine", { maxBytes: 65_536, maxDepth: 4 });
  const name = typeof document === "object" && document !== null && "name" in document ? document["name"] : undefined;
  return typeof name === "string" && /^[\w.-]{1,64}$/.test(name) ? name : "unnamed";
}

function withoutUndefined(fields: { [K in keyof LaunchInputs]: LaunchInputs[K] | undefined }): Partial<LaunchInputs> {
  const entries = Object.entries(fields).filter(([, value]) => value !== undefined);
  return Object.fromEntries(entries) as Partial<LaunchInputs>; // each value was filtered, no key was renamed
}
