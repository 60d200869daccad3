import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { chmodSync, mkdtempSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { isRoot } from "../support/socket-workload.ts";
import type { Lab, Program, Served } from "./bench.ts";
import type { Try } from "./step.ts";

export const P11KIT_CLIENT = "/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so";

/** What a program printed. */
export interface Ran {
  readonly code: number;
  readonly out: Uint8Array;
  readonly err: string;
}

/** Runs a program as that user; as this one when this process may not become others. */
export function runAs(
  uid: number,
  program: string,
  args: readonly string[],
  env: Readonly<Record<string, string>>,
): Promise<Ran> {
  const user = isRoot ? { uid, gid: uid } : {};
  return new Promise((settle) => {
    const options = { ...user, cwd: "/", env: { PATH: "/usr/bin:/bin", ...env }, encoding: "buffer" } as const;
    execFile(program, args, options, (error, out, err) => {
      const code = error === null ? 0 : typeof error.code === "number" ? error.code : -1;
      settle({ code, out: Uint8Array.from(out), err: err.toString() });
    });
  });
}

/** Who asks for a signature, where, and by what. */
export interface Asking {
  readonly program: Program;
  readonly uid: number;
  readonly scope: string;
  /** CKA_ID of the key, in hexadecimal. */
  readonly id: string;
  /** As pkcs11-tool calls it: ECDSA, RSA-PKCS, RSA-X-509. */
  readonly mechanism: string;
  readonly data: Uint8Array;
  /** What the data is, for whoever watches. */
  readonly what?: string;
  readonly pin?: string;
}

export interface Signed {
  /** Null when it was refused. */
  readonly signature: Uint8Array | null;
  /** What the client saw: the length of a signature, or PKCS #11's code. */
  readonly answer: string;
  readonly command: string;
  readonly who: string;
}

/** `pkcs11-tool --sign` through p11-kit-client.so, with nothing but the address of a socket. */
export async function signWithTool(lab: Lab, served: Served, asking: Asking): Promise<Signed> {
  const { program, uid, scope, id, mechanism, data, what, pin } = asking;
  const input = join(mkdtempSync(join(lab.directory, "input-")), "data");
  writeFileSync(input, data);
  chmodSync(dirname(input), 0o755);
  const args = [
    "--sign",
    "--id",
    id,
    "--mechanism",
    mechanism,
    ...(pin === undefined ? [] : ["--login", "--pin", pin]),
  ];
  const env = { P11_KIT_SERVER_ADDRESS: `unix:path=${served.socket(scope)}` };
  const ran = await runAs(uid, program.path, ["--module", P11KIT_CLIENT, ...args, "--input-file", input], env);
  const name = basename(program.path);
  return {
    signature: ran.code === 0 && ran.out.length > 0 ? ran.out : null,
    answer: answerOf(ran),
    command: `P11_KIT_SERVER_ADDRESS=unix:path=.../${scope}.sock ${name} --module p11-kit-client.so ${args.join(" ")} --input-file data${what === undefined ? "" : `   # ${what}`}`,
    who: `${name}, uid ${uid}`,
  };
}

/** A signature is served only when it is good. @param good whether these bytes verify */
export function tried(
  expected: Try["expected"],
  { who, command, answer, signature }: Signed,
  good: (signature: Uint8Array) => boolean,
): Try {
  const served = signature !== null && good(signature);
  const verified = served ? "; it verifies under the token's public key" : "";
  return { who, command, expected, outcome: served ? "accepted" : "refused", answer: `${answer}${verified}` };
}

export function digestOf(message: string): Uint8Array {
  return Uint8Array.from(createHash("sha256").update(message).digest());
}

/** Codes that pkcs11-tool has no name for. */
const NAMES: Readonly<Record<string, string>> = { "0x200": "CKR_FUNCTION_REJECTED" };

/** pkcs11-tool says which function failed and by which code. After a C_Sign that fails it tries in pieces, and says what came of that. */
function answerOf({ code, out, err }: Ran): string {
  if (code === 0 && out.length > 0) return `a signature of ${out.length} bytes`;
  const [, name, rv = ""] = /(C_\w+).*?failed: rv = (.+)/.exec(err) ?? [];
  if (name !== undefined) return `${name}: ${NAMES[/\((0x[0-9a-f]+)\)/.exec(rv)?.[1] ?? ""] ?? rv}`;
  if (err.includes("C_Initialize")) return "C_Initialize: refused";
  return err.split("\n").find((line) => /error|No slot/i.test(line)) ?? `exit code ${code}`;
}
