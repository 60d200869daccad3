import { createHash, randomBytes, randomUUID } from "node:crypto";
import { link, open, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { SigningKey } from "../../policy/index.ts";
import { defaultAppraisalPolicy, earKeyId, encodeAppraisalPolicy } from "../index.ts";
import { defaultConfig, encodeVerifierConfig, type VerifierConfig } from "./config.ts";
import { readBounded } from "./documents.ts";
import { ServiceError } from "./errors.ts";
import { makeDirectory } from "./make-directory.ts";

export interface InitOrder {
  readonly folder: string;
  /** Makes a P-256 key in a new file, mode 0600. */
  createKey(path: string): Promise<SigningKey>;
  /** Documents to copy in; `null`: to be given later. */
  readonly releaseAnchors: string | null;
  readonly endorsementAnchors: string | null;
}

export interface Initialised {
  readonly config: VerifierConfig;
  /** Id of the key that signs results. */
  readonly kid: string;
  readonly files: readonly string[];
}

/**
 * Lays out a working configuration: a fresh signing key, a token each for a viewer and an operator, the default policy, an empty folder of
 * releases. Overwrites nothing. @throws ServiceError `ERR_SERVICE_FILE`; what `createKey` throws
 */
export async function initVerifier({
  folder,
  createKey,
  releaseAnchors,
  endorsementAnchors,
}: InitOrder): Promise<Initialised> {
  const at = (name: string) => join(folder, name);
  await makeDirectory({
    ...{ path: join(folder, defaultConfig.references), mode: 0o700 },
    refusal: (what, fields) => new ServiceError("ERR_SERVICE_FILE", what, fields),
  });
  await guarded(folder, () => syncDirectory(dirname(folder)));
  const key = await createKey(at(defaultConfig.signingKey));
  const roles: VerifierConfig["roles"] = [];
  for (const role of ["viewer", "operator"] as const) {
    roles.push({ name: role, role, tokenSha256: await makeTokenFile(at(`${role}.token`)) });
  }
  await writeNew(at(defaultConfig.policy), encodeAppraisalPolicy(defaultAppraisalPolicy.document), 0o644);
  const config: VerifierConfig = {
    ...defaultConfig,
    roles,
    releaseAnchors: await copyIn(releaseAnchors, folder, "release-anchors.json"),
    endorsementAnchors: await copyIn(endorsementAnchors, folder, "endorsement-anchors.json"),
  };
  await writeNew(at("verifier.json"), encodeVerifierConfig(config), 0o644);
  const documents = [config.releaseAnchors, config.endorsementAnchors].filter((name) => name !== null);
  const files = ["verifier.json", config.signingKey, "viewer.token", "operator.token", config.policy, ...documents];
  return { config, kid: earKeyId(key.spkiPem), files };
}

/** Writes a new bearer token, mode 0600, and gives the digest that the configuration names. @throws ServiceError `ERR_SERVICE_FILE` */
export async function makeTokenFile(path: string): Promise<string> {
  const token = randomBytes(32).toString("base64url");
  await writeTokenFile(path, token);
  return createHash("sha256").update(token).digest("hex");
}

/** One line in a new file, mode 0600. @throws ServiceError `ERR_SERVICE_FILE` */
export function writeTokenFile(path: string, token: string): Promise<void> {
  return writeNew(path, `${token}\n`, 0o600);
}

async function copyIn(from: string | null, folder: string, name: string): Promise<string | null> {
  if (from === null) return null;
  const path = join(folder, name);
  await writeNew(path, await readBounded(from, name), 0o644);
  return name;
}

async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, "r");
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

async function writeNew(path: string, content: Uint8Array | string, mode: number): Promise<void> {
  await guarded(path, () => createFile(path, content, mode));
}

/** All of it or nothing, and there after a power cut: the name is given last, by link(2), which replaces nothing. */
async function createFile(path: string, content: Uint8Array | string, mode: number): Promise<void> {
  const temporary = `${path}.${randomUUID()}.tmp`;
  try {
    const file = await open(temporary, "wx", mode);
    try {
      await file.writeFile(content);
      await file.sync();
    } finally {
      await file.close();
    }
    await link(temporary, path);
  } finally {
    await rm(temporary, { force: true });
  }
  await syncDirectory(dirname(path));
}

async function guarded(path: string, act: () => Promise<unknown>): Promise<void> {
  try {
    await act();
  } catch (cause) {
    const got = cause instanceof Error && "code" in cause ? String(cause.code) : "a failure";
    throw new ServiceError("ERR_SERVICE_FILE", path, { expected: "a new file", got, cause });
  }
}
