import { type ChildProcess, fork } from "node:child_process";
import { join } from "node:path";
import { pkcs11NativePath } from "./pkcs11-native.ts";

/** A PKCS #11 library in a process of its own. */
export interface Pkcs11Process {
  call<T>(op: string, fields?: Record<string, unknown>): Promise<T>;
  close(): Promise<void>;
}

export class Pkcs11Failure extends Error {
  readonly rv: number | null;
  constructor(message: string, rv: number | null) {
    super(message);
    this.rv = rv;
  }
}

interface Reply {
  readonly id: number;
  readonly value?: unknown;
  readonly error?: string;
  readonly rv?: number | null;
}

export function startPkcs11(environment: Record<string, string>): Pkcs11Process {
  pkcs11NativePath();
  const child = fork(join(import.meta.dirname, "pkcs11-child.ts"), [], {
    env: { ...process.env, ...environment },
    execArgv: [],
  });
  const waiting = new Map<number, (reply: Reply) => void>();
  let last = 0;
  child.on("message", (reply: Reply) => {
    waiting.get(reply.id)?.(reply);
    waiting.delete(reply.id);
  });
  child.on("exit", (code, signal) => {
    for (const [id, settle] of waiting) settle({ id, error: `the process ended: ${code ?? signal}`, rv: null });
    waiting.clear();
  });
  return {
    call: <T>(op: string, fields: Record<string, unknown> = {}) =>
      new Promise<T>((resolve, reject) => {
        last += 1;
        waiting.set(last, (reply) => {
          if (reply.error === undefined) resolve(reply.value as T);
          else reject(new Pkcs11Failure(reply.error, reply.rv ?? null));
        });
        child.send({ id: last, op, ...fields });
      }),
    close: () => ended(child),
  };
}

function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return Promise.resolve();
  return new Promise((resolve) => {
    child.once("exit", () => resolve());
    child.disconnect();
  });
}
