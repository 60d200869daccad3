import type { Socket } from "node:net";
import { createInterface } from "node:readline";
import { ImageError } from "./errors.ts";

/** Sends one command and resolves with what it returned. Throws {@link ImageError} ERR_VM_CONTROL. */
export type Qmp = (command: string, args?: Readonly<Record<string, unknown>>, timeoutMs?: number) => Promise<unknown>;

interface Waiting {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: ImageError) => void;
}

interface QmpMessage {
  readonly id?: number;
  readonly return?: unknown;
  readonly error?: { readonly class: string; readonly desc: string };
  readonly QMP?: unknown;
}

const TIMEOUT_MS = 10_000;

/** Speak the QEMU Machine Protocol (docs/interop/qmp-spec) on a connected socket; resolves when commands are accepted. */
export async function openQmp(socket: Socket): Promise<Qmp> {
  const waiting = new Map<number, Waiting>();
  let next = 1;
  const greeted = Promise.withResolvers<void>();
  const lines = createInterface({ input: socket });
  lines.on("line", (line) => {
    const message: QmpMessage = JSON.parse(line); // from the QEMU that we started
    if (message.QMP !== undefined) greeted.resolve();
    if (message.id !== undefined) settle(waiting, message.id, message);
  });
  for (const source of [socket, lines]) source.on("error", () => {}); // "close" follows; the lines pass the socket's errors on
  socket.once("close", () => {
    const error = new ImageError("ERR_VM_EXITED", "qmp: connection closed");
    greeted.reject(error);
    for (const { reject } of waiting.values()) reject(error);
    waiting.clear();
  });
  const qmp: Qmp = (command, args = {}, timeoutMs = TIMEOUT_MS) => {
    const id = next;
    next += 1;
    const answer = new Promise<unknown>((resolve, reject) => {
      if (socket.destroyed) reject(new ImageError("ERR_VM_EXITED", "qmp: connection closed"));
      else waiting.set(id, { resolve, reject });
    });
    socket.write(`${JSON.stringify({ execute: command, arguments: args, id })}\n`);
    return withTimeout(answer, timeoutMs, `qmp ${command}`).finally(() => waiting.delete(id));
  };
  await withTimeout(greeted.promise, TIMEOUT_MS, "qmp greeting");
  await qmp("qmp_capabilities");
  return qmp;
}

function settle(waiting: Map<number, Waiting>, id: number, message: QmpMessage): void {
  const waiter = waiting.get(id);
  if (message.error === undefined) waiter?.resolve(message.return);
  else waiter?.reject(new ImageError("ERR_VM_CONTROL", `qmp: ${message.error.class}: ${message.error.desc}`));
}

/** `promise`, or {@link ImageError} ERR_VM_TIMEOUT after `ms` milliseconds. */
export async function withTimeout<T>(promise: Promise<T>, ms: number, what: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const expiry = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () => reject(new ImageError("ERR_VM_TIMEOUT", what, { expected: `an answer within ${ms} ms`, got: "none" })),
      ms,
    );
  });
  try {
    return await Promise.race([promise, expiry]);
  } finally {
    clearTimeout(timer);
  }
}
