import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import type { Reason } from "../../attest/index.ts";
import { toBase64 } from "../../policy/index.ts";
import type { VerifierFolder } from "../../vm-images/story/verifier-folder.ts";

const program = resolve(import.meta.dirname, "../../agent/cli/ironclaw.ts");

/** What a viewer is answered when a report is handed in. */
export interface Handed {
  readonly status: number;
  readonly tier?: string;
  readonly error?: { readonly code: string; readonly reasons?: readonly Reason[] };
}

/** `ironclaw verifier serve` as a process of its own. */
export interface VerifierProcess extends AsyncDisposable {
  readonly url: string;
  readonly pid: number;
  /** GET as a viewer, e.g. `/v1/machines`. */
  get(path: string): Promise<unknown>;
  /** A stored report, as it came. */
  report(name: string, id: number): Promise<Uint8Array>;
  challenge(machine: string): Promise<Uint8Array>;
  /** Hands a report in as a viewer, who learns the reasons. */
  hand(report: Uint8Array, nonce: Uint8Array): Promise<Handed>;
  stop(): Promise<number | null>;
  /** SIGKILL. */
  kill(): Promise<void>;
  /** SIGHUP, and until it has read its documents again. */
  reload(): Promise<void>;
}

export async function startVerifier({ folder, url }: VerifierFolder): Promise<VerifierProcess> {
  const arguments_ = [program, "verifier", "serve", "--config", join(folder, "verifier.json")];
  const child = spawn(process.execPath, arguments_, { stdio: ["ignore", "pipe", "pipe"] });
  let log = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    log += text;
  });
  await once(child.stdout, "data"); // it says where it listens
  const authorization = `Bearer ${readFileSync(join(folder, "viewer.token"), "utf8").trim()}`;
  const ask = (path: string, init: RequestInit = {}) =>
    fetch(`${url}${path}`, { ...init, headers: { authorization, ...init.headers } });
  const stop = () => end(child);
  return {
    ...{ url, stop, pid: child.pid ?? -1 },
    kill: async () => {
      const ended = once(child, "exit");
      child.kill("SIGKILL");
      await ended;
    },
    reload: async () => {
      log = "";
      child.kill("SIGHUP");
      while (!/verifier: (reloaded|kept)/.test(log)) await once(child.stderr, "data");
    },
    [Symbol.asyncDispose]: async () => void (await stop()),
    get: async (path) => (await ask(path)).json(),
    report: async (name, id) => new Uint8Array(await (await ask(`/v1/machines/${name}/reports/${id}`)).arrayBuffer()),
    challenge: async (machine) => {
      const body = JSON.stringify({ machine });
      const made = await ask("/v1/challenges", {
        method: "POST",
        headers: { "content-type": "application/json" },
        body,
      });
      const { nonce } = (await made.json()) as { nonce: string };
      return new Uint8Array(Buffer.from(nonce, "base64"));
    },
    hand: async (report, nonce) => {
      const headers = { "content-type": "application/cmw+cbor", "ironclaw-nonce": toBase64(nonce) };
      const answer = await ask("/v1/evidence", { method: "POST", headers, body: Uint8Array.from(report) });
      return { status: answer.status, ...((await answer.json()) as object) };
    },
  };
}

async function end(child: ChildProcess): Promise<number | null> {
  if (child.exitCode !== null) return child.exitCode;
  child.kill("SIGTERM");
  const [code] = await once(child, "exit");
  return code;
}
