import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { colourWords, wantsColour } from "../../../agent/cli/colour.ts";
import type { Command } from "../../../agent/cli/command.ts";
import { COMMANDS, type ProgramIo, runIronclaw } from "../../../agent/cli/ironclaw.ts";
import { CommandProgress } from "../../../agent/cli/progress.ts";

const plainOf = (text: string) =>
  text
    .split("\u001b")
    .map((part, index) => (index === 0 ? part : part.replace(/^\[[0-9;]*[mK]/, "")))
    .join("");

describe("colours", () => {
  test("are there on a terminal that knows them, and where nobody said no", () => {
    expect(wantsColour(true, { TERM: "xterm" })).toBe(true);
    expect(wantsColour(true, { NO_COLOR: "" })).toBe(true);
    expect(wantsColour(false, { TERM: "xterm" })).toBe(false);
    expect(wantsColour(true, { NO_COLOR: "1" })).toBe(false);
    expect(wantsColour(true, { TERM: "dumb" })).toBe(false);
  });

  test("change no word, and mark verdicts, findings and complaints alone", () => {
    const text = [
      "vm-1: affirming (launch serving, software-tpm)",
      "vm-1: contraindicated (launch refused)",
      "ok  tpm  answers",
      "fail  bank  sha384",
      "  event policy: expected a, got b  <- differs",
      "ironclaw: policy: expected a, got b (ERR_X)",
      "hint: look",
      "the verdict was affirming",
    ].join("\n");
    const coloured = colourWords(text);
    expect(plainOf(coloured)).toBe(text);
    expect(coloured).toContain("vm-1: \u001b[32maffirming\u001b[0m (");
    expect(coloured).toContain("vm-1: \u001b[31mcontraindicated\u001b[0m (");
    expect(coloured.split("\n")[7]).toBe("the verdict was affirming");
    expect(coloured.split("\u001b[0m")).toHaveLength(8);
  });
});

/** A shell whose terminal is what is asked for. */
function shell(rewrites: boolean, colours = true) {
  const seen = { out: "", err: "" };
  const io: ProgramIo = {
    input: (async function* () {})(),
    print: (text) => {
      seen.out += `${text}\n`;
    },
    complain: (text) => {
      seen.err += `${text}\n`;
    },
    terminal: {
      colours: { print: colours, complain: colours },
      progress: {
        write: (text) => {
          seen.err += text;
        },
        rewrites,
        columns: 60,
      },
    },
  };
  return { seen, io };
}

describe("with a terminal", () => {
  test("a complaint is coloured; not with --no-color, and never JSON", async () => {
    const coloured = shell(true);
    await runIronclaw(["policy"], coloured.io);
    expect(coloured.seen.err).toContain("\u001b[31mironclaw:\u001b[0m");
    for (const args of [
      ["policy", "--no-color"],
      ["--no-color", "policy"],
      ["policy", "--json"],
    ]) {
      const plain = shell(true);
      expect(await runIronclaw(args, plain.io)).toBe(2);
      expect(plain.seen.err).not.toContain("\u001b");
    }
  });

  test("`--no-color` goes with every command, and `--` ends options", async () => {
    const { io, seen } = shell(true);
    expect(await runIronclaw(["policy", "check", "--no-color", "/nothing"], io)).toBe(4);
    expect(seen.err).not.toContain("\u001b");
    const other = shell(false, false);
    await runIronclaw(["policy", "check", "--", "--no-color"], other.io);
    expect(other.seen.err).toContain("--no-color");
  });
});

describe("progress", () => {
  beforeEach(
    () =>
      void vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "setInterval", "clearInterval", "performance"] }),
  );
  afterEach(() => void vi.useRealTimers());
  const stream = (rewrites: boolean, columns = 60) => {
    const written: string[] = [];
    return { written, rewrites, columns, write: (text: string) => void written.push(text) };
  };

  test("is silent for two seconds, then one line that is rewritten and taken away", () => {
    const terminal = stream(true);
    const progress = new CommandProgress("ironclaw enrol", terminal);
    progress.phase("asking");
    vi.advanceTimersByTime(1999);
    expect(terminal.written).toEqual([]);
    vi.advanceTimersByTime(1500);
    expect(terminal.written.at(-1)).toBe("\r\u001b[2Kironclaw enrol: asking (3 s)");
    expect(terminal.written.join("")).not.toContain("\n");
    progress.clear();
    expect(terminal.written.at(-1)).toBe("\r\u001b[2K");
    progress.end();
    const count = terminal.written.length;
    vi.advanceTimersByTime(10_000);
    expect(terminal.written).toHaveLength(count);
  });

  test("is a line for each phase where there is no terminal, and none for a command without phases", () => {
    const file = stream(false);
    const progress = new CommandProgress("ironclaw image build", file);
    progress.phase("packages");
    progress.phase("root");
    vi.advanceTimersByTime(5000);
    progress.phase("disk");
    progress.end();
    expect(file.written).toEqual(["ironclaw image build: root ...\n", "ironclaw image build: disk ...\n"]);
    const silent = stream(false);
    new CommandProgress("ironclaw verify", silent);
    vi.advanceTimersByTime(5000);
    expect(silent.written).toEqual([]);
  });

  test("never wraps, and a name from a document drives no terminal", () => {
    for (const columns of [20, 200]) {
      const terminal = stream(true, columns);
      const progress = new CommandProgress("ironclaw measure", terminal);
      progress.phase("evil\n\u001b[2J".repeat(30));
      vi.advanceTimersByTime(3000);
      progress.end();
      expect(terminal.written.length).toBeGreaterThan(2);
      for (const text of terminal.written) {
        const line = text.replace("\r\u001b[2K", "");
        expect(line.length).toBeLessThan(columns);
        expect(line).not.toMatch(/\p{C}/u);
      }
    }
  });

  const slow = (json: boolean): Command => ({
    ...{ summary: "", positionals: [], examples: [] },
    options: { json: { type: "boolean", help: "" } },
    run: async (_, io) => {
      io.phase("sleeping");
      await new Promise((settle) => setTimeout(settle, 5000));
      io.print(json ? "{}" : "done");
      return 0;
    },
  });

  test.each([
    ["without --json it is shown, on standard error only", ["slow"], /sleeping \(2 s\)/],
    ["with --json nothing of it is", ["slow", "--json"], /^$/],
  ] as const)("%s", async (_, args, expected) => {
    const { io, seen } = shell(true, false);
    const commands = COMMANDS as Record<string, () => Promise<{ command: Command }>>; // one more, for this test
    commands["slow"] = async () => ({ command: slow(args.length > 1) });
    try {
      const ended = runIronclaw(args, io);
      await vi.advanceTimersByTimeAsync(6000);
      expect(await ended).toBe(0);
      expect(plainOf(seen.err)).toMatch(expected);
      expect(seen.out).toBe(args.length > 1 ? "{}\n" : "done\n");
      expect(seen.err.endsWith("\r\u001b[2K") || seen.err === "").toBe(true);
    } finally {
      delete commands["slow"];
    }
  });
});
