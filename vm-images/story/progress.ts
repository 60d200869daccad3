import type { WriteStream } from "node:tty";

export interface StepTiming {
  readonly step: string;
  readonly ms: number;
}

/**
 * What is being done right now and for how long. On a terminal the running step's line counts its seconds; elsewhere each
 * step prints one line when it starts and one when it ends. Always on standard error, so that `--json` owns the output.
 */
export class Progress {
  readonly #stream: Pick<WriteStream, "write"> & { readonly isTTY?: boolean };
  readonly #started = performance.now();
  readonly #running = new Map<string, number>();
  readonly #timings: StepTiming[] = [];
  #ticker: NodeJS.Timeout | undefined;

  constructor(
    stream: Pick<WriteStream, "write"> & {
      readonly isTTY?: boolean;
    } = process.stderr,
  ) {
    this.#stream = stream;
  }

  get timings(): readonly StepTiming[] {
    return this.#timings;
  }

  async step<T>(name: string, act: () => Promise<T>): Promise<T> {
    const start = performance.now();
    this.#running.set(name, start);
    this.#begin(name);
    try {
      const result = await act();
      this.#end(name, start, "done");
      return result;
    } catch (error) {
      this.#end(name, start, "FAILED");
      throw error;
    }
  }

  /** One line of fact under the running step. */
  note(text: string): void {
    this.#line(`            ${text}`);
  }

  #begin(name: string): void {
    if (this.#stream.isTTY) {
      this.#ticker ??= setInterval(() => this.#draw(), 250).unref();
      this.#draw();
    } else {
      this.#line(`${this.#clock()}  ${name} ...`);
    }
  }

  #end(name: string, start: number, outcome: string): void {
    const ms = Math.round(performance.now() - start);
    this.#running.delete(name);
    this.#timings.push({ step: name, ms });
    if (this.#running.size === 0) {
      clearInterval(this.#ticker);
      this.#ticker = undefined;
    }
    this.#line(`${this.#clock()}  ${name}: ${outcome} in ${(ms / 1000).toFixed(1)} s`);
  }

  #clock(): string {
    const seconds = (performance.now() - this.#started) / 1000;
    return `[${seconds.toFixed(1).padStart(6)} s]`;
  }

  #draw(): void {
    const steps = [...this.#running].map(
      ([name, start]) => `${name} (${Math.round((performance.now() - start) / 1000)} s)`,
    );
    this.#stream.write(`\r\x1b[2K${this.#clock()}  ${steps.join(" | ")}`);
  }

  #line(text: string): void {
    this.#stream.write(`${this.#stream.isTTY ? "\r\x1b[2K" : ""}${text}\n`);
  }
}
