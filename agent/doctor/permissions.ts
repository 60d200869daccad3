import { type Stats, statSync } from "node:fs";
import { join } from "node:path";
import type { AgentConfig } from "../config.ts";
import type { Files } from "./files.ts";
import { type Finding, fail, ok } from "./finding.ts";

/** What may not be. `others`: nobody but owner and group; `group`: the group neither. */
interface Rule {
  readonly path: string;
  readonly kind: "directory" | "file" | "socket";
  /** Bits that must not be set. */
  readonly forbidden: number;
  /** Bits that must be. */
  readonly required?: number;
  /** Who must own it; default: anybody. */
  readonly owner?: number;
}

const WRITE_OTHERS = 0o022;
const ALL_OTHERS = 0o077;
const EVERYBODY_CONNECTS = 0o666;
const ROOT = 0;
const MOST_WRONG = 16;

/** Configuration, programs, sockets, log and store: who may change them, and who may read what is not everybody's. */
export function permissionFindings(
  files: Files,
  config: AgentConfig,
  configPath: string,
  owner = ROOT,
): readonly Finding[] {
  const rules: readonly Rule[] = [
    { path: configPath, kind: "file", forbidden: WRITE_OTHERS, owner },
    { path: config.programs, kind: "directory", forbidden: WRITE_OTHERS, owner },
    ...files.names(config.programs).map((name) => ({
      ...{ path: join(config.programs, name), kind: "file" as const, forbidden: WRITE_OTHERS, owner },
    })),
    { path: config.scopes, kind: "directory", forbidden: WRITE_OTHERS },
    ...files.names(config.scopes).map((name) => ({
      ...{ path: join(config.scopes, name), kind: "socket" as const, forbidden: 0, required: EVERYBODY_CONNECTS },
    })),
    { path: config.auditLog, kind: "directory", forbidden: ALL_OTHERS },
    ...(config.store === null ? [] : [{ path: config.store, kind: "file" as const, forbidden: 0o007 }]),
    { path: config.cabinet, kind: "file", forbidden: 0o002 },
  ];
  const wrong = rules.flatMap((rule) => problem(files, rule));
  if (wrong.length === 0) return [ok("permissions", `${rules.length} files, folders and sockets`)];
  return wrong.slice(0, MOST_WRONG);
}

/** What is not there is another check's matter. */
function problem(files: Files, { path, kind, forbidden, required = 0, owner }: Rule): readonly Finding[] {
  const found = statusOf(files, path);
  if (found === null) return [];
  const mode = found.mode & 0o777;
  const octal = (bits: number) => `0${bits.toString(8)}`;
  if (kind === "socket" && !found.isSocket())
    return [fail("permissions", { expected: `${path}: a socket`, got: "another file" })];
  if (kind === "directory" && !found.isDirectory())
    return [fail("permissions", { expected: `${path}: a folder`, got: "another file" })];
  if ((mode & forbidden) !== 0 || (mode & required) !== required)
    return [
      fail("permissions", {
        expected: `${path}: mode ${octal((mode & ~forbidden) | required)}`,
        got: octal(mode),
        fix: `chmod ${octal((mode & ~forbidden) | required)} ${path}`,
      }),
    ];
  if (owner !== undefined && found.uid !== owner)
    return [
      fail("permissions", {
        expected: `${path}: uid ${owner}`,
        got: `uid ${found.uid}`,
        fix: `chown ${owner} ${path}`,
      }),
    ];
  return [];
}

function statusOf(files: Files, path: string): Stats | null {
  return statSync(files.path(path), { throwIfNoEntry: false }) ?? null;
}
