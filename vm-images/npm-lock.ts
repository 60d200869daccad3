import { readFile } from "node:fs/promises";
import { resolve } from "node:path";
import { ImageError } from "./errors.ts";

export interface NpmPackage {
  readonly name: string;
  readonly version: string;
  /** Of the registry's archive, lower-case hex. Absent for a package of this tree. */
  readonly sha512?: string;
  /** SPDX expression, as the package says. */
  readonly license?: string;
}

const LOCK = resolve(import.meta.dirname, "../package-lock.json");

interface LockEntry {
  readonly version?: string;
  readonly integrity?: string;
  readonly license?: string;
  readonly link?: boolean;
  readonly resolved?: string;
}

async function readEntries(): Promise<Readonly<Record<string, LockEntry>>> {
  return (JSON.parse(await readFile(LOCK, "utf8")) as { packages: Record<string, LockEntry> }).packages;
}

export async function projectVersion(): Promise<string> {
  return (await readEntries())[""]?.version ?? "unknown";
}

/** What package-lock.json says of packages that lie directly in `node_modules`. */
export async function npmPackages(names: readonly string[]): Promise<readonly NpmPackage[]> {
  const packages = await readEntries();
  return names.map((name) => {
    const listed = packages[`node_modules/${name}`];
    const entry = listed?.link === true ? packages[listed.resolved ?? ""] : listed;
    if (entry?.version === undefined) {
      throw new ImageError("ERR_IMAGE_SOURCE", `npm package ${name}`, {
        expected: "an entry in package-lock.json",
        got: "none",
      });
    }
    const { version, integrity, license } = entry;
    const digest = /^sha512-([A-Za-z0-9+/=]+)$/.exec(integrity ?? "")?.[1];
    return {
      ...{ name, version },
      ...(digest === undefined ? {} : { sha512: Buffer.from(digest, "base64").toString("hex") }),
      ...(license === undefined ? {} : { license }),
    };
  });
}
