import type { Socket } from "node:net";
import { ImageError } from "./errors.ts";

export type Answer = Readonly<Record<string, unknown>>;

const MAX_LINE = 8 << 20;

interface Waiting {
  resolve(answer: Answer): void;
  reject(error: Error): void;
  readonly timer: NodeJS.Timeout;
}

/** Requests and answers as JSON lines over one of the guest's ports; each request has an id that its answer repeats. */
export class LineClient {
  readonly #socket: Socket;
  readonly #what: string;
  readonly #waiting = new Map<number, Waiting>();
  #next = 1;
  #pending = "";

  /** @param what names the other side in errors */
  constructor(socket: Socket, what: string) {
    this.#socket = socket;
    this.#what = what;
    socket.setEncoding("utf8");
    socket.on("data", (chunk: string) => this.#receive(chunk));
    socket.on("error", () => this.#failAll("connection lost"));
    socket.on("close", () => this.#failAll("connection closed"));
  }

  /**
   * Send one request and await its answer. An answer with `ok: false` rejects with its error.
   * @param timeout milliseconds; a guest under emulation is slow, so be generous
   */
  async request(op: string, fields: Answer = {}, timeout = 120_000): Promise<Answer> {
    const id = this.#next++;
    if (this.#socket.destroyed)
      throw new ImageError("ERR_VM_PORT", this.#what, { expected: "an answer", got: "connection closed" });
    const answer = await new Promise<Answer>((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#waiting.delete(id);
        reject(
          new ImageError("ERR_VM_TIMEOUT", `${this.#what} ${op}`, {
            expected: `an answer in ${timeout / 1000} s`,
            got: "none",
          }),
        );
      }, timeout);
      this.#waiting.set(id, { resolve, reject, timer });
      this.#socket.write(`${JSON.stringify({ id, op, ...fields })}\n`);
    });
    if (answer["ok"] === true) return answer;
    throw new ImageError("ERR_VM_CONTROL", `${this.#what} ${op}`, {
      expected: "ok",
      got: JSON.stringify(answer["error"]),
    });
  }

  close(): void {
    this.#socket.destroy();
  }

  #receive(chunk: string): void {
    this.#pending += chunk;
    const lines = this.#pending.split("\n");
    this.#pending = lines.pop() ?? "";
    if (this.#pending.length > MAX_LINE) this.#socket.destroy();
    for (const line of lines) this.#settle(line);
  }

  /** What the guest sends is not trusted: anything that is no answer to a waiting request is dropped. */
  #settle(line: string): void {
    try {
      const answer: unknown = JSON.parse(line);
      if (typeof answer !== "object" || answer === null || !("id" in answer) || typeof answer.id !== "number") return;
      const waiting = this.#waiting.get(answer.id);
      if (waiting === undefined) return;
      this.#waiting.delete(answer.id);
      clearTimeout(waiting.timer);
      waiting.resolve(answer as Answer); // an object, as checked above
    } catch {
      // not JSON: dropped
    }
  }

  #failAll(got: string): void {
    for (const { reject, timer } of this.#waiting.values()) {
      clearTimeout(timer);
      reject(new ImageError("ERR_VM_PORT", this.#what, { expected: "an answer", got }));
    }
    this.#waiting.clear();
  }
}
