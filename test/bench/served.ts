import { execFileSync } from "node:child_process";
import { chmodSync, cpSync, mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import type { ShimKey } from "../../agent/shim-replies.ts";
import type { KeyPlace } from "../../agent/shims/domain-shim.ts";
import { sha256Hex, utf8 } from "../../policy/index.ts";
import { OTHER_USER } from "../support/hostile-lab.ts";
import type { LabKey, LabMember } from "../support/lab-broker.ts";
import { documentBytes, type PolicyDocument, policyDocument } from "../support/policy-document.ts";
import { publicKeyOf, SOFTHSM, TEST_PIN, type Token } from "../support/shim-fixture.ts";
import { LABEL, openSandboxBench, type SandboxBench } from "./sandbox.ts";

const root = resolve(import.meta.dirname, "../..");
export const SCOPES = 64;
const CKK_EC = 3n;

/** Who the clients are. The policy has no place for root. */
export const CALLER = OTHER_USER;

/** `program` becomes read-only in a place of its own, as in an image: the spawner hashes what can change anew at each look. */
const AS_CALLER =
  'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && exec setpriv --reuid "$0" --regid "$0" --clear-groups "$@"';

/** The command that runs a program as the scopes' caller, or as the user so many behind that one, in a session of its own. */
export function callerCommand(
  program: string,
  args: readonly string[],
  user = 0,
): readonly [string, readonly string[]] {
  const path = realpathSync(program);
  const uid = `${(CALLER?.uid ?? 0) + user}`;
  const command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", AS_CALLER, uid];
  return ["setsid", ["--wait", ...command, path, ...args]];
}

/** A lab's agent that serves scopes over the keys of a token in sandboxed shims. */
export interface Served extends Pick<SandboxBench, "lab" | "environment"> {
  readonly directory: string;
  readonly keys: readonly LabKey[];
  readonly socket: (scope: string) => string;
  /** The token before anybody but its maker used it, as configuration for a process of its own. */
  readonly copyOfToken: () => Readonly<Record<string, string>>;
  close(): Promise<void>;
}

export interface ServedOptions {
  readonly addKeys?: (token: Token) => void;
  /** The policy's callers with their programs: the first is `CALLER`, the others are the users behind it. */
  readonly callers: Readonly<Record<string, readonly string[]>>;
  /** How many shims serve, each with a copy of the token; default one. */
  readonly shims?: number;
  /** Gives the document its keys' scopes; `keys`, `callers` and the rest are there. */
  readonly scopes: (keys: readonly LabKey[]) => readonly Record<string, unknown>[];
}

/** The sandbox's files are in memory, sockets and audit log on a disk. */
export async function openServed({ addKeys, callers, shims = 1, scopes }: ServedOptions): Promise<Served> {
  if (CALLER === null) throw new Error("this has to be run as root: the scopes' callers are of another user");
  const sandbox = openSandboxBench(addKeys);
  const directory = mkdtempSync(join(tmpdir(), "ironclaw-served-"));
  const close = async () => {
    await sandbox.close();
    rmSync(directory, { recursive: true, force: true });
  };
  try {
    const serving = join(directory, "agent");
    mkdirSync(serving);
    for (const path of [directory, serving]) chmodSync(path, 0o777);
    const copies = join(directory, "tokens");
    cpSync(join(sandbox.directory, "copy"), copies, { recursive: true });
    const { lab } = sandbox;
    const members = [];
    for (let at = 0; at < shims; at++) members.push(await openMember(sandbox));
    const keys = members[0]?.keys ?? [];
    const policy = documentBytes(servedDocument(keys, callers, scopes(keys)));
    await lab.ask("serveScopes", { shims: members, policy, keys, directory: serving });
    return {
      ...{ lab, environment: sandbox.environment, directory, keys, close },
      socket: (scope) => join(serving, "scopes", `${scope}.sock`),
      copyOfToken: () => copyOfToken(directory, copies),
    };
  } catch (error) {
    await close();
    throw error;
  }
}

/** A shim that is logged in, knows its keys' uses and is armed. */
async function openMember({ lab, request }: SandboxBench): Promise<LabMember & { readonly keys: readonly LabKey[] }> {
  const id = await lab.reserve();
  const { slotId } = await lab.ask("launch", request(id), SOFTHSM, LABEL, utf8(TEST_PIN));
  // what the agent's client gives for `keys`, which this channel has no type for
  const found = (await lab.ask("shim", id, "keys", [slotId])) as readonly ShimKey[];
  await lab.ask("shim", id, "uses", [found.map(({ handle }) => ({ slotId, handle, use: "sign" }))]);
  await lab.ask("shim", id, "arm", []);
  const places = found.map((key): [string, KeyPlace] => [
    key.label,
    { slotId, handle: key.handle, quick: key.keyType === CKK_EC },
  ]);
  return { id, places: new Map(places), keys: found.map(labKey) };
}

function labKey(key: ShimKey): LabKey {
  const { id, label } = key;
  const spki = Uint8Array.from(publicKeyOf(key).export({ format: "der", type: "spki" }));
  return { name: label, label, id, spki };
}

export function servedDocument(
  keys: readonly Pick<LabKey, "name" | "spki">[],
  callers: ServedOptions["callers"],
  scopes: readonly Record<string, unknown>[],
): PolicyDocument {
  return {
    ...policyDocument(),
    keys: Object.fromEntries(keys.map(({ name, spki }) => [name, { spki: `sha256:${sha256Hex(spki)}`, does: "sign" }])),
    callers: Object.fromEntries(
      Object.entries(callers).map(([name, programs], user) => [
        name,
        { uid: seenUser(user), exe: programs.map(digestOf), unit: null },
      ]),
    ),
    scopes: [...scopes],
  };
}

/** Where the lab has one user, all others are nobody. */
export function seenUser(user: number): number {
  if (CALLER === null) return 0;
  return CALLER.seen === CALLER.uid ? CALLER.uid + user : CALLER.seen;
}

export function digestOf(path: string): string {
  return `sha256:${sha256Hex(new Uint8Array(readFileSync(realpathSync(path))))}`;
}

/** A shim has written to its own. */
function copyOfToken(directory: string, from: string): Readonly<Record<string, string>> {
  const place = mkdtempSync(join(directory, "token-"));
  cpSync(from, join(place, "tokens"), { recursive: true });
  execFileSync("chmod", ["-R", "a+rwX", place]);
  const config = join(place, "softhsm2.conf");
  writeFileSync(config, `directories.tokendir = ${place}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n`);
  return { SOFTHSM2_CONF: config };
}

/** `native/<name>.c` of each name in one program. */
export function compileClient(directory: string, name: string, others: readonly string[]): string {
  const output = join(directory, name);
  const sources = [name, ...others].map((source) => join(import.meta.dirname, "native", `${source}.c`));
  execFileSync("gcc", [
    ...["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE"],
    ...[`-I${root}/agent/shim`, "-o", output, ...sources, "-ldl"],
  ]);
  return output;
}
