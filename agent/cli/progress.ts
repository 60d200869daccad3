import { printableLine } from "../../policy/index.ts";

/** What takes no longer than this says nothing of itself. */
const PATIENCE = 2000;
const TICK = 250;
/** Goes to the line's start and empties it. */
const REWRITE = "\r\u001b[2K";

/** Standard error, as far as progress is concerned. */
export interface ProgressStream {
  write(text: string): void;
  /** A terminal that can rewrite a line. */
  readonly rewrites: boolean;
  readonly columns: number;
}

/**
 * Shows what a command is doing once it has taken two seconds: on a terminal one line, rewritten until the command says something else;
 * elsewhere a line for each phase, and nothing for a command that names none.
 */
export class CommandProgress {
  readonly #words: string;
  readonly #stream: ProgressStream;
  readonly #started = performance.now();
  readonly #first: NodeJS.Timeout;
  #ticker: NodeJS.Timeout | undefined;
  #phase: string | null = null;
  #drawn = false;
  #ended = false;

  constructor(words: string, stream: ProgressStream) {
    this.#words = words;
    this.#stream = stream;
    this.#first = setTimeout(() => this.#show(), PATIENCE).unref();
  }

  /** What is done from here on. */
  phase(name: string): void {
    this.#phase = printableLine(name);
    if (this.#seconds() * 1000 >= PATIENCE) this.#show();
  }

  /** Takes the line away: other text is about to be written. The next tick brings it back. */
  clear(): void {
    if (this.#drawn) this.#stream.write(REWRITE);
    this.#drawn = false;
  }

  end(): void {
    this.#ended = true;
    clearTimeout(this.#first);
    clearInterval(this.#ticker);
    this.clear();
  }

  #show(): void {
    if (this.#ended) return;
    if (!this.#stream.rewrites) {
      if (this.#phase !== null) this.#stream.write(`${this.#words}: ${this.#phase} ...\n`);
      return;
    }
    this.#ticker ??= setInterval(() => this.#draw(), TICK).unref();
    this.#draw();
  }

  #draw(): void {
    const line = `${this.#words}: ${this.#phase ?? "at work"} (${Math.floor(this.#seconds())} s)`;
    // A line that wraps could not be rewritten.
    this.#stream.write(`${REWRITE}${line.slice(0, Math.max(1, this.#stream.columns - 1))}`);
    this.#drawn = true;
  }

  #seconds(): number {
    return (performance.now() - this.#started) / 1000;
  }
}
