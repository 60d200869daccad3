import { createReadStream } from "node:fs";
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { buffer } from "node:stream/consumers";
import {
  IronclawError,
  keyIdOf,
  parseAnchors,
  type Release,
  type SigningKey,
  verifyReleaseSignatures,
} from "../../policy/index.ts";
import { type AppraisalPolicy, parseAppraisalPolicy, parseEndorsementAnchors, type TrustAnchor } from "../index.ts";
import type { VerifierConfig } from "./config.ts";
import { ServiceError } from "./errors.ts";

/** What the service believes, read from files that its operator keeps. */
export interface TrustDocuments {
  readonly policy: AppraisalPolicy;
  /** Signed under the release root. Whether their dates include today is judged with each report. */
  readonly releases: readonly Release[];
  /** Key id of the release root; `null` where nobody's releases count. */
  readonly releaseRoot: string | null;
  readonly endorsementAnchors: readonly TrustAnchor[];
}

const maxDocument = 4 << 20;
const maxReleases = 1000;

/**
 * Reads and verifies policy, releases and anchors. One that does not verify fails all of them: a fleet judged by half of its releases
 * would look broken. @throws IronclawError with the file's name, ServiceError `ERR_SERVICE_FILE`
 */
export async function readTrustDocuments(
  config: VerifierConfig,
  at: (path: string) => string,
): Promise<TrustDocuments> {
  const { releaseAnchors, endorsementAnchors } = config;
  const policy = await readDocument(at(config.policy), "appraisal policy", parseAppraisalPolicy);
  const anchors =
    endorsementAnchors === null
      ? []
      : await readDocument(at(endorsementAnchors), "endorsement anchors", parseEndorsementAnchors);
  const names = await releaseFiles(at(config.references));
  if (releaseAnchors === null) return { policy, releases: [], releaseRoot: null, endorsementAnchors: anchors };
  const { releaseRoot } = await readDocument(at(releaseAnchors), "release anchors", parseAnchors);
  const releases: Release[] = [];
  for (const name of names) {
    const verify = (bytes: Uint8Array) => verifyReleaseSignatures(bytes, releaseRoot);
    releases.push(await readDocument(join(at(config.references), name), "release", verify));
  }
  return { policy, releases, releaseRoot: keyIdOf(releaseRoot), endorsementAnchors: anchors };
}

/** In the order of their names, which decides nothing: every release is compared with. */
async function releaseFiles(folder: string): Promise<readonly string[]> {
  let names: readonly string[];
  try {
    names = (await readdir(folder)).filter((name) => name.endsWith(".json")).sort();
  } catch (cause) {
    throw unreadable(folder, "references", "a readable folder", cause);
  }
  if (names.length <= maxReleases) return names;
  throw unreadable(folder, "references", `at most ${maxReleases} releases`, `${names.length}`);
}

/** @throws IronclawError of the reader, with the file in front; ServiceError `ERR_SERVICE_FILE` */
async function readDocument<T>(path: string, what: string, read: (bytes: Uint8Array) => T | Promise<T>): Promise<T> {
  const bytes = await readBounded(path, what);
  try {
    return await read(bytes);
  } catch (cause) {
    if (!(cause instanceof IronclawError)) throw cause;
    const hint = cause.hint === undefined ? {} : { hint: cause.hint };
    throw new ServiceError("ERR_SERVICE_CONFIG", `${what} ${path}: ${cause.message} (${cause.code})`, {
      cause,
      ...hint,
    });
  }
}

/** A file or pipe of the operator's, whole. @throws ServiceError `ERR_SERVICE_FILE` */
export async function readBounded(path: string, what: string): Promise<Uint8Array> {
  try {
    const found = await stat(path);
    if (!found.isFile() && !found.isFIFO()) throw unreadable(path, what, "a readable file", "something else");
    const bytes = await buffer(createReadStream(path, { end: maxDocument }));
    if (bytes.length > maxDocument) throw unreadable(path, what, `at most ${maxDocument} bytes`, "more");
    return new Uint8Array(bytes);
  } catch (cause) {
    throw cause instanceof ServiceError ? cause : unreadable(path, what, "a readable file", cause);
  }
}

/** The key that signs results as a JWK. Its kind was checked when `kid` was computed: EARs are ES256. */
export function publicJwk({ spkiPem }: Pick<SigningKey, "spkiPem">, kid: string) {
  const der = Buffer.from(spkiPem.replaceAll(/-----[A-Z ]+-----|\s/g, ""), "base64");
  const point = der.subarray(-64);
  const half = (from: number) => point.subarray(from, from + 32).toString("base64url");
  return { ...{ kty: "EC", crv: "P-256", x: half(0), y: half(32) }, kid, alg: "ES256", use: "sig" } as const;
}

function unreadable(path: string, what: string, expected: string, cause: unknown): ServiceError {
  const code = cause instanceof Error && "code" in cause ? String(cause.code) : null;
  const got = typeof cause === "string" ? cause : (code ?? "a failure");
  return new ServiceError("ERR_SERVICE_FILE", `${what} ${path}`, { expected, got, cause });
}
