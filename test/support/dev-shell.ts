import { randomBytes } from "node:crypto";
import type { Socket } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import { bundleProgram } from "../../vm-images/bundle.ts";

export interface ShellAnswer {
  readonly code: number;
  /** Standard output and standard error. */
  readonly output: string;
}

/** Milliseconds; a guest under emulation is slow. */
const PATIENCE = 300_000;
const TRY_AGAIN = 1_000;

/** Commands as root over a `dev` machine's port `ironclaw.shell`, one after the other, each ended by a marker of its own. */
export class DevShell {
  readonly #socket: Socket;
  #received = "";
  #arrived: () => void = () => undefined;
  #last: Promise<unknown> = Promise.resolve();

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.setEncoding("latin1");
    socket.on("data", (text: string) => {
      this.#received += text;
      this.#arrived();
    });
    socket.on("error", () => undefined); // the guest ends; a waiting command runs out of patience
  }

  /** What is written before the shell reads its port is lost, so it is greeted until it answers. */
  static async open(socket: Socket, interval = TRY_AGAIN): Promise<DevShell> {
    const shell = new DevShell(socket);
    const marker = newMarker();
    for (let tries = 0; tries < PATIENCE / interval && !shell.#received.includes(marker); tries++) {
      // No prompts in between; the marker is written so that an echo of the line would not be one.
      socket.write(`PS1= PS2=; echo ${marker.slice(0, 4)}""${marker.slice(4)}\n`);
      await delay(interval);
    }
    await shell.run(":"); // swallows further greetings
    return shell;
  }

  /** Lines of at most some 900 characters: what reads them has a limit. */
  run(command: string): Promise<ShellAnswer> {
    // In turn: two answers awaited at once would each throw away what stands before its own.
    const turn = this.#last.then(() => this.#runNow(command));
    this.#last = turn.catch(() => undefined);
    return turn;
  }

  async #runNow(command: string): Promise<ShellAnswer> {
    const [begin, end] = [newMarker(), newMarker()];
    this.#socket.write(`echo ${begin}; { ${command}\n} </dev/null 2>&1; printf '\\n%s %s\\n' ${end} $?\n`);
    const match = await this.#await(new RegExp(`${begin}\n([^]*)\n${end} (\\d+)\n`));
    return { code: Number(match[2]), output: match[1] ?? "" };
  }

  /** The output of a command that must succeed. */
  async output(command: string): Promise<string> {
    const { code, output } = await this.run(command);
    if (code !== 0) throw new Error(`${command}: exit code ${code}: ${output}`);
    return output.trimEnd();
  }

  /** Start something that ends the machine. */
  send(command: string): void {
    this.#socket.write(`${command}\n`);
  }

  async put(path: string, bytes: Uint8Array): Promise<void> {
    const lines =
      Buffer.from(bytes)
        .toString("base64")
        .match(/.{1,760}/g) ?? [];
    await this.output(`base64 -d >${path} <<'EOF'\n${lines.join("\n")}\nEOF`);
  }

  /** Run a TypeScript program under the guest's Node, with one JSON document in and one out. */
  async program(entry: string, input: unknown): Promise<unknown> {
    await this.put("/tmp/program.cjs", await bundleProgram(entry));
    await this.put("/tmp/program.json", Buffer.from(JSON.stringify(input)));
    return JSON.parse(await this.output("node /tmp/program.cjs </tmp/program.json"));
  }

  close(): void {
    this.#socket.destroy();
  }

  async #await(pattern: RegExp): Promise<RegExpExecArray> {
    const deadline = performance.now() + PATIENCE;
    for (;;) {
      const match = pattern.exec(this.#received);
      if (match !== null) {
        this.#received = this.#received.slice(match.index + match[0].length);
        return match;
      }
      if (performance.now() > deadline) throw new Error(`shell: no answer, only ${JSON.stringify(this.#received)}`);
      await Promise.race([new Promise<void>((resolve) => (this.#arrived = resolve)), delay(TRY_AGAIN)]);
    }
  }
}

function newMarker(): string {
  return `M${randomBytes(8).toString("hex")}`;
}
