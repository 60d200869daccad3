import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { createPublicKey, type KeyObject } from "node:crypto";
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import type { Writable } from "node:stream";
import { AgentError } from "../../agent/errors.ts";
import type { Attempt } from "../../agent/native/index.ts";
import { type Native, openNative } from "../../agent/native/index.ts";
import { openShim, type Shim } from "../../agent/shim-client.ts";
import type { LoadedLibrary, ShimKey } from "../../agent/shim-replies.ts";
import { ByteWriter, utf8 } from "../../policy/bytes.ts";
import { compileProfile } from "../../policy/runtime/compile.ts";
import { parseProfile } from "../../policy/runtime/parse.ts";

const root = resolve(import.meta.dirname, "../..");
export const NATIVE_DIRECTORY = join(root, "build/native");
export const SOFTHSM = "/usr/lib/softhsm/libsofthsm2.so";
/** Long and odd, so that a search through memory finds nothing else. */
export const TEST_PIN = "73-ironclaw-test-pin-4182";

const C_FLAGS = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE", "-fPIC", `-I${root}/agent/shim`];

export function native(): Native {
  return openNative(NATIVE_DIRECTORY);
}

/** A directory for one test file; `remove` deletes it. */
export interface Bench {
  readonly directory: string;
  remove(): void;
}

export function openBench(): Bench {
  const directory = mkdtempSync(join(tmpdir(), "ironclaw-shim-"));
  chmodSync(directory, 0o755);
  return { directory, remove: () => rmSync(directory, { recursive: true, force: true }) };
}

/** Compiles `test/hostile/<name>.c` and gives the path of the result. */
export function buildHostile(
  bench: Pick<Bench, "directory">,
  name: string,
  kind: "module" | "program",
  extra: readonly string[] = [],
): string {
  const output = join(bench.directory, kind === "module" ? `${name}.so` : name);
  const shape = kind === "module" ? ["-shared"] : [];
  execFileSync("gcc", [...C_FLAGS, ...shape, "-o", output, join(root, "test/hostile", `${name}.c`), ...extra]);
  return output;
}

export interface Token {
  readonly environment: Readonly<Record<string, string>>;
  readonly tokens: string;
}

/** Runs `pkcs11-tool` as the token's user. */
export function runTokenTool(token: Token, args: readonly string[]): string {
  const env = { ...process.env, ...token.environment };
  const login = ["--module", SOFTHSM, "--login", "--pin", TEST_PIN];
  return execFileSync("pkcs11-tool", [...login, ...args], { env, stdio: "pipe", encoding: "utf8" });
}

/** A SoftHSM token with the keys `ec` (P-256, id 01) and `rsa` (RSA-2048, id 02). */
export function makeToken(bench: Bench): Token {
  const tokens = join(bench.directory, "tokens");
  const config = join(bench.directory, "softhsm2.conf");
  mkdirSync(tokens);
  writeFileSync(config, `directories.tokendir = ${tokens}\nobjectstore.backend = file\nlog.level = ERROR\n`);
  const environment = { SOFTHSM2_CONF: config };
  const options = { env: { ...process.env, ...environment }, stdio: "pipe" as const };
  execFileSync(
    "softhsm2-util",
    ["--init-token", "--free", "--label", "bench", "--so-pin", "87654321", "--pin", TEST_PIN],
    options,
  );
  const token = { environment, tokens };
  runTokenTool(token, ["--keypairgen", "--key-type", "EC:prime256v1", "--id", "01", "--label", "ec"]);
  runTokenTool(token, ["--keypairgen", "--key-type", "rsa:2048", "--id", "02", "--label", "rsa"]);
  return token;
}

/** The slot of the token that `makeToken` made. */
export function benchSlot({ slots }: LoadedLibrary): bigint {
  const slot = slots.find(({ label }) => label === "bench");
  if (slot === undefined) throw new Error("no slot bench");
  return slot.slotId;
}

export function keyNamed(keys: readonly ShimKey[], name: string): ShimKey {
  const [key, ...others] = keys.filter(({ label }) => label === name);
  if (key === undefined || others.length > 0) throw new Error(`not one key ${name}`);
  return key;
}

/** The public half, as the shim reports it: RSA, or EC on P-256. */
export function publicKeyOf(key: ShimKey): KeyObject {
  const base64url = (bytes: Uint8Array): string => Buffer.from(bytes).toString("base64url");
  if (key.keyType === 0n) {
    const rsa = { kty: "RSA", n: base64url(key.modulus), e: base64url(key.exponent) };
    return createPublicKey({ key: rsa, format: "jwk" });
  }
  // OCTET STRING of an uncompressed P-256 point: 04 41 04 x y
  const [x, y] = [key.ecPoint.slice(3, 35), key.ecPoint.slice(35, 67)];
  return createPublicKey({ key: { kty: "EC", crv: "P-256", x: base64url(x), y: base64url(y) }, format: "jwk" });
}

/** The rv of a refusal; 0 when there was none, undefined for any other failure. */
export function rvOf(promise: Promise<unknown>): Promise<bigint | undefined> {
  return promise.then(
    () => 0n,
    (error: unknown) => (error instanceof AgentError ? error.rv : undefined),
  );
}

/** The code of an AgentError, or what came instead. */
export function codeOf(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => "no error",
    (error: unknown) => (error instanceof AgentError ? error.code : String(error)),
  );
}

export function localProfileText(): string {
  return readFileSync(join(root, "policy/runtime/local.profile"), "utf8");
}

/** The local profile with this machine's paths instead of the shim's private root. */
export function hostProfileText(bench: Pick<Bench, "directory">, token: Token | null): string {
  const readable = ["/usr/lib", "/etc/ld.so.cache", "/etc/ssl", bench.directory].filter((path) => existsSync(path));
  const rules = [
    ...readable.map((path) => `landlock read ${path}`),
    ...(token === null ? [] : [`landlock write ${token.tokens}`]),
  ];
  return localProfileText()
    .replace(/^landlock .*\n/gm, "")
    .replace("stage load", `${rules.join("\n")}\nstage load`);
}

export function writeHostProfile(bench: Bench, token: Token | null, name = "profile"): string {
  const path = join(bench.directory, name);
  writeFileSync(path, compileProfile(parseProfile(hostProfileText(bench, token))));
  return path;
}

export interface StartOptions {
  readonly profile: string;
  readonly environment?: Readonly<Record<string, string>>;
  readonly timeoutMs?: number;
}

export interface Started {
  readonly shim: Shim;
  readonly child: ChildProcess;
  readonly attempts: readonly Attempt[];
  /** Writes a secret the way the unsealer does: u16 length, then the bytes. */
  give(secret: string | Uint8Array): void;
  /** Writes these bytes into the credential channel, whatever they are, and ends it. */
  giveBroken(bytes: Uint8Array): void;
  /** Exit code and signal, once the process is gone. */
  readonly ended: Promise<{ readonly code: number | null; readonly signal: NodeJS.Signals | null }>;
}

interface Raw {
  readonly fd: number;
  readonly child: ChildProcess;
  readonly ended: Started["ended"];
  readonly stderr: () => string;
}

/** Starts the shim with a request socket at fd 3 and a credential channel at fd 4; gives the agent's end, unread. */
export function startRaw(addon: Native, { profile, environment }: StartOptions): Raw {
  const [ours, theirs] = addon.socketPair("stream");
  const child = spawn(join(NATIVE_DIRECTORY, "shim"), [profile], {
    env: { ...environment },
    cwd: "/",
    stdio: ["ignore", "ignore", "pipe", theirs, "pipe"],
  });
  addon.closeFd(theirs);
  const texts: string[] = [];
  child.stderr?.on("data", (bytes: Uint8Array) => texts.push(new TextDecoder().decode(bytes)));
  // the credential channel ends with the shim, whatever was still in it
  child.stdio[4]?.on("error", () => undefined);
  const ended = new Promise<{ code: number | null; signal: NodeJS.Signals | null }>((done) => {
    child.on("close", (code, signal) => done({ code, signal }));
  });
  return { fd: ours, child, ended, stderr: () => texts.join("") };
}

export async function startShim(addon: Native, options: StartOptions): Promise<Started> {
  const { fd, child, ended } = startRaw(addon, options);
  const attempts: Attempt[] = [];
  const shim = await openShim(fd, addon, {
    timeoutMs: options.timeoutMs ?? 20_000,
    onAttempt: (attempt) => attempts.push(attempt),
  });
  // child_process types fd 4 as either direction; "pipe" gives a stream for both
  const channel = child.stdio[4] as Writable;
  return {
    shim,
    child,
    attempts,
    give: (secret) => void channel.write(new ByteWriter().sized16(bytesOf(secret)).finish()),
    giveBroken: (bytes) => void channel.end(bytes),
    ended,
  };
}

function bytesOf(secret: string | Uint8Array): Uint8Array {
  return typeof secret === "string" ? utf8(secret) : secret;
}

/** A request as the shim reads it. */
export function frame(id: number, op: number, payload: Uint8Array): Uint8Array {
  return new ByteWriter()
    .u32(payload.length + 5)
    .u32(id)
    .u8(op)
    .bytes(payload)
    .finish();
}
