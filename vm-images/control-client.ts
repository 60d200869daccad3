import { randomInt } from "node:crypto";
import type { Socket } from "node:net";
import { createInterface } from "node:readline";
import { ImageError } from "./errors.ts";
import { withTimeout } from "./qmp.ts";

/** What the agent answered, without `id` and `ok`. Untrusted: it comes from the guest. */
export type ControlAnswer = Readonly<Record<string, unknown>>;

export interface ChallengeRequest {
  /** 32 bytes. */
  readonly nonce: Uint8Array;
  readonly bank: "sha256" | "sha384";
  readonly pcrs: readonly number[];
}

export type SealingOp =
  | "check"
  | "records"
  | "reseal"
  | "abort-reseal"
  | "order"
  | "own"
  | "freeze"
  | "freeze-status"
  | "narrow";

export type OperatingOp = "sessions" | "end-session" | "doctor";

export interface ControlClient {
  /** `timeoutMs` for this request alone: one sent before the guest's agent runs may be lost, and holds up the next. */
  status(timeoutMs?: number): Promise<ControlAnswer>;
  /** DER certificates of the endorsement keys, the template of the one in use, TPMT_PUBLIC of the attestation key and its name (hex). */
  endorsement(): Promise<ControlAnswer>;
  /** TPM2_ActivateCredential in the guest; resolves with the secret that was recovered. */
  activate(credentialBlob: Uint8Array, encryptedSecret: Uint8Array): Promise<Uint8Array>;
  /** A report over the report port, at most 4 MiB. Not verified in any way. */
  challenge(request: ChallengeRequest): Promise<Uint8Array>;
  /** What an operator asks about sealed credentials (`check`, `records`, `reseal`, `abort-reseal`, `order`, `own`), or stops (`freeze`, `narrow`). */
  sealing(op: SealingOp, fields?: Readonly<Record<string, unknown>>): Promise<ControlAnswer>;
  /** What an operator looks at, and ends: `sessions`, `end-session`, `doctor`. */
  operating(op: OperatingOp, fields?: Readonly<Record<string, unknown>>): Promise<ControlAnswer>;
  /** What approvers ask: `pending`, `approve`. */
  approving(op: "pending" | "approve", fields?: Readonly<Record<string, unknown>>): Promise<ControlAnswer>;
  /** What the agent counts: `text`, in the Prometheus format. */
  metrics(): Promise<ControlAnswer>;
  audit(from: number, limit: number): Promise<ControlAnswer>;
  close(): void;
}

export interface ControlSockets {
  /** Port `ironclaw.control`: JSON lines `{id, op, ...}` out, `{id, ok, ...}` in. */
  readonly control: Socket;
  /** Port `ironclaw.report`: each report is a u32 big-endian length and that many bytes. */
  readonly report: Socket;
  /** For each request, milliseconds; default 60 000, because a guest under TCG is slow. */
  readonly timeoutMs?: number;
}

const MAX_REPORT = 4 * 1024 * 1024;
const MAX_LINE = 8 * 1024 * 1024;

/**
 * The host's side of the control port. Requests are sent one after the other, so a report belongs to the challenge before it.
 * Throws {@link ImageError} ERR_VM_CONTROL when the agent refuses (with its code) or answers nonsense, ERR_VM_TIMEOUT, ERR_VM_PORT.
 */
export function openControl({ control, report, timeoutMs = 60_000 }: ControlSockets): ControlClient {
  const answers = new AnswerLines(control);
  const reports = new ReportFrames(report);
  let last: Promise<unknown> = Promise.resolve();
  // Not from the same number in every connection: a guest may answer what was asked in the one before.
  let next = randomInt(1, 2 ** 31);
  const inTurn = <T>(act: () => Promise<T>): Promise<T> => {
    const turn = last.then(act, act);
    last = turn.catch(() => {});
    return turn;
  };
  const ask = async (
    op: string,
    fields: Readonly<Record<string, unknown>> = {},
    within = timeoutMs,
  ): Promise<ControlAnswer> => {
    const id = next;
    next += 1;
    const answer = answers.wait(id);
    control.write(`${JSON.stringify({ id, op, ...fields })}\n`);
    return accepted(op, await withTimeout(answer, within, `control ${op}`));
  };
  return {
    status: (within) => inTurn(() => ask("status", {}, within)),
    endorsement: () => inTurn(() => ask("endorsement")),
    activate: (credentialBlob, encryptedSecret) =>
      inTurn(async () => {
        const answer = await ask("activate", {
          credentialBlob: base64(credentialBlob),
          encryptedSecret: base64(encryptedSecret),
        });
        if (typeof answer["secret"] === "string") return new Uint8Array(Buffer.from(answer["secret"], "base64"));
        throw new ImageError("ERR_VM_CONTROL", "control activate: secret", {
          expected: "base64",
          got: typeof answer["secret"],
        });
      }),
    challenge: ({ nonce, bank, pcrs }) =>
      inTurn(async () => {
        if (report.destroyed) throw closed("ironclaw.report");
        const frame = reports.next();
        frame.catch(() => {}); // when the request itself fails, that error is the one to report
        await ask("challenge", { nonce: Buffer.from(nonce).toString("hex"), bank, pcrs });
        // A report that comes after its time would be taken for the answer to the next challenge.
        return await withTimeout(frame, timeoutMs, "report port").catch((error: unknown) => {
          report.destroy();
          throw error;
        });
      }),
    sealing: (op, fields) => inTurn(() => ask(op, fields)),
    operating: (op, fields) => inTurn(() => ask(op, fields)),
    approving: (op, fields) => inTurn(() => ask(op, fields)),
    metrics: () => inTurn(() => ask("metrics")),
    audit: (from, limit) => inTurn(() => ask("audit", { from, limit })),
    close: () => {
      control.destroy();
      report.destroy();
    },
  };
}

function accepted(op: string, answer: ControlAnswer): ControlAnswer {
  const { id: _, ok, error, ...fields } = answer;
  if (ok === true) return fields;
  const { code = "no code", message = "no message" } = (error ?? {}) as { code?: unknown; message?: unknown }; // shown as text only
  throw new ImageError("ERR_VM_CONTROL", `control ${op}`, {
    expected: "ok",
    got: `${String(code)}: ${String(message)}`,
  });
}

/** Answers by the id of their request. Lines with an id that nobody waits for are dropped. */
class AnswerLines {
  readonly #waiting = new Map<number, { resolve(answer: ControlAnswer): void; reject(error: ImageError): void }>();

  readonly #socket: Socket;

  constructor(socket: Socket) {
    this.#socket = socket;
    let buffered = 0;
    socket.on("data", (bytes: Buffer) => {
      buffered = bytes.includes(10) ? 0 : buffered + bytes.length;
      if (buffered > MAX_LINE) socket.destroy();
    });
    const lines = createInterface({ input: socket });
    lines.on("line", (line) => this.#settle(line));
    lines.on("error", () => {}); // the socket's, passed on
    whenClosed(socket, "ironclaw.control", (error) => {
      for (const { reject } of this.#waiting.values()) reject(error);
      this.#waiting.clear();
    });
  }

  wait(id: number): Promise<ControlAnswer> {
    return new Promise((resolve, reject) => {
      if (this.#socket.destroyed) return reject(closed("ironclaw.control"));
      this.#waiting.set(id, { resolve, reject });
    });
  }

  #settle(line: string): void {
    let answer: unknown;
    try {
      answer = JSON.parse(line);
    } catch {
      return; // not an answer; the request's timeout says so
    }
    if (typeof answer !== "object" || answer === null || !("id" in answer) || typeof answer.id !== "number") return;
    this.#waiting.get(answer.id)?.resolve(answer as ControlAnswer); // an object, whose fields stay unknown
    this.#waiting.delete(answer.id);
  }
}

/** Length-prefixed frames. A length beyond the cap closes the port: what follows could not be told apart. */
class ReportFrames {
  #pending = Buffer.alloc(0);
  #waiting: { resolve(frame: Uint8Array): void; reject(error: ImageError): void } | null = null;
  readonly #socket: Socket;

  constructor(socket: Socket) {
    this.#socket = socket;
    socket.on("data", (bytes: Buffer) => {
      // Nobody asked for more than one report at a time: a guest that goes on sending would fill this host's memory.
      if (this.#pending.length + bytes.length > 4 + MAX_REPORT) this.#refuse("more than one report");
      else this.#pending = Buffer.concat([this.#pending, bytes]);
      this.#deliver();
    });
    whenClosed(socket, "ironclaw.report", (error) => this.#waiting?.reject(error));
  }

  next(): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject };
      this.#deliver();
    });
  }

  #deliver(): void {
    if (this.#pending.length < 4) return;
    const length = this.#pending.readUInt32BE(0);
    if (length > MAX_REPORT) {
      this.#refuse(`${length}`);
      return;
    }
    if (this.#waiting === null || this.#pending.length < 4 + length) return;
    this.#waiting.resolve(new Uint8Array(this.#pending.subarray(4, 4 + length)));
    this.#waiting = null;
    this.#pending = this.#pending.subarray(4 + length);
  }

  #refuse(got: string): void {
    this.#pending = Buffer.alloc(0);
    this.#waiting?.reject(
      new ImageError("ERR_VM_CONTROL", "report length", { expected: `at most ${MAX_REPORT}`, got }),
    );
    this.#socket.destroy();
  }
}

function whenClosed(socket: Socket, port: string, act: (error: ImageError) => void): void {
  socket.on("error", () => {}); // "close" follows
  socket.once("close", () => act(closed(port)));
}

function closed(port: string): ImageError {
  return new ImageError("ERR_VM_PORT", `port ${port}`, { expected: "open", got: "closed" });
}

function base64(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("base64");
}
