import { execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { closeSync, fstatSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { serviceLog } from "../../agent/cli/verifier-log.ts";
import { Journal, LOG_LEVELS, type LogLevel, logLine, logSettings } from "../../agent/journal.ts";
import { native } from "../support/shim-fixture.ts";
import { buildBootWords, buildLogLines, buildStart, single, startSpawner } from "./spawner/host.ts";

const root = resolve(import.meta.dirname, "../..");
const levels = Object.keys(LOG_LEVELS) as readonly LogLevel[];
const directory = mkdtempSync(join(tmpdir(), "ironclaw-journal-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));
const plain = { form: "plain", least: "debug" } as const;

describe("a log line", () => {
  test("is plain with its level in front, or the journal's with its number", () => {
    expect(logLine(plain, "warning", "agent", "store: no valid copy")).toBe("WARNING agent: store: no valid copy\n");
    expect(logLine({ ...plain, form: "journal" }, "error", "agent", "x")).toBe("<3>agent: x\n");
  });

  test("I10: is one line of at most 1024 bytes that drives no terminal, whatever the message is", () => {
    fc.assert(
      fc.property(
        fc.string({ unit: "binary", maxLength: 3000 }),
        fc.constantFrom(...levels),
        fc.constantFrom("plain", "journal"),
        (message, level, form) => {
          const line = logLine({ form, least: "debug" }, level, "agent", message) ?? "";
          expect(Buffer.byteLength(line)).toBeLessThanOrEqual(1024);
          expect(line.slice(0, -1)).not.toMatch(/[\p{C}\p{Zl}\p{Zp}]/u);
          expect(line.at(-1)).toBe("\n");
        },
      ),
    );
    expect(logLine(plain, "info", "agent", "é".repeat(2000))).toMatch(/^INFO agent: é+\.\.\.\n$/);
  });

  test("is written at its level and above, not below", () => {
    for (const least of levels) {
      const written = levels.filter((level) => logLine({ form: "plain", least }, level, "agent", "x") !== null);
      expect(written).toEqual(levels.slice(0, levels.indexOf(least) + 1));
    }
  });
});

describe("how lines look", () => {
  const stderr = () => ({ dev: 8, ino: 1234 });
  test.each([
    ["nothing is set", {}, "plain", "info"],
    ["standard error is the journal", { JOURNAL_STREAM: "8:1234" }, "journal", "info"],
    ["the journal is another stream", { JOURNAL_STREAM: "8:1235" }, "plain", "info"],
    ["a level is asked for", { IRONCLAW_LOG: "warning", JOURNAL_STREAM: "8:1234" }, "journal", "warning"],
    ["the form is asked for", { IRONCLAW_LOG: "plain:error", JOURNAL_STREAM: "8:1234" }, "plain", "error"],
    ["the journal's is asked for", { IRONCLAW_LOG: "journal:debug" }, "journal", "debug"],
  ] as const)("when %s", (_, environment, form, least) => {
    expect(logSettings(environment, stderr)).toEqual({ form, least, problem: null });
  });

  test.each(["", "loud", "INFO", "journal:", "journal:plain:info", "info "])(
    "`%s` counts as none, and is told",
    (asked) => {
      expect(logSettings({ IRONCLAW_LOG: asked }, stderr)).toMatchObject({ form: "plain", least: "info" });
      const lines: string[] = [];
      new Journal("agent", (line) => lines.push(line)).begin({ IRONCLAW_LOG: asked });
      expect(lines).toEqual([expect.stringMatching(/^WARNING agent: IRONCLAW_LOG: expected a level/)]);
    },
  );

  test("levels and numbers are those of LOGS.md", () => {
    const document = readFileSync(join(root, "agent/LOGS.md"), "utf8");
    const rows = [...document.matchAll(/^\| `([A-Z]+)` \| (\d) \|/gm)].map(([, word = "", n]) => [
      word.toLowerCase(),
      Number(n),
    ]);
    expect(Object.fromEntries(rows)).toEqual(LOG_LEVELS);
  });
});

describe("the spawner's and the relay's lines", () => {
  const program = buildLogLines(directory);
  const run = (...args: readonly string[]) =>
    execFileSync(program, args, { encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] });

  test("are the agent's, for the same settings and printing characters", () => {
    const numbers = { error: "3", warning: "4", notice: "5", info: "6" } as const;
    for (const asked of [
      "-",
      ...levels,
      ...levels.map((level) => `journal:${level}`),
      "plain:notice",
      "no",
      "journal:",
    ]) {
      const { problem, ...settings } = logSettings(asked === "-" ? {} : { IRONCLAW_LOG: asked });
      for (const level of ["error", "warning", "notice", "info"] as const) {
        const line = logLine(settings, level, "relay 3", "127.0.0.1:1: Connection refused") ?? "";
        const said = `${problem === null ? "" : "unreadable "}${settings.form}:${settings.least}\n`;
        expect(run(asked, "-", numbers[level], "512", "relay 3", "127.0.0.1:1: Connection refused")).toBe(said + line);
      }
    }
  });

  test("I10: end within their size, in `...` when they are cut, and hold no control character", () => {
    for (const size of [24, 25, 26, 40, 64]) {
      const [, line = ""] =
        /^plain:info\n([\s\S]*)$/.exec(run("-", "-", "3", `${size}`, "spawner", "m\n\u001b".repeat(20))) ?? [];
      expect(line.length).toBe(size);
      expect(line).toMatch(/^ERROR spawner: [m?]*\.\.\.\n$/);
    }
  });

  test("are the journal's when JOURNAL_STREAM is standard error", () => {
    const fd = openSync(join(directory, "stderr"), "w");
    const { dev, ino } = fstatSync(fd);
    const args = ["-", `${dev}:${ino}`, "4", "512", "spawner", "x"];
    const printed = execFileSync(program, args, { encoding: "utf8", stdio: ["ignore", "pipe", fd] });
    closeSync(fd);
    expect(printed).toBe("journal:info\n<4>spawner: x\n");
  });

  test("a relay says that it is ready at every level: the spawner waits for these words", async () => {
    const fd = native().listen(join(directory, "listener.sock"));
    const relay = spawn(join(root, "build/native/relay"), ["0", "127.0.0.1:9"], {
      stdio: ["ignore", "ignore", "pipe", fd],
      env: { IRONCLAW_LOG: "journal:error" },
    });
    try {
      const [line] = await once(relay.stderr ?? relay, "data");
      expect(`${line}`).toMatch(/^<6>relay 0: ready, 1 endpoints, at most \d+ connections\n$/);
    } finally {
      relay.kill("SIGKILL");
      closeSync(fd);
    }
  });

  test("in the image they are as the measured command line says, by its last word of that name", () => {
    const words = buildBootWords(directory);
    const file = join(directory, "cmdline");
    const bound = [
      ...(single ? ["--user", "--map-root-user"] : []),
      "--mount",
      "sh",
      "-c",
      'mount --bind "$1" /proc/cmdline && exec "$0"',
      words,
      file,
    ];
    for (const [line, expected] of [
      ["quiet", "- 0"],
      ["ironclaw.log=notice quiet ironclaw.variant=demo", "notice 1"],
      ["ironclaw.log=debug ironclaw.log=plain:error ironclaw.variant=dev", "plain:error 2"],
      ["xironclaw.log=debug ironclaw.variant=other", "- 0"],
    ] as const) {
      writeFileSync(file, `${line}\n`);
      expect(execFileSync("unshare", bound, { encoding: "utf8" }), line).toBe(`${expected}\n`);
    }
  });

  test("the spawner hands its form and level to the agent, and writes them itself", async () => {
    const programs = buildStart();
    try {
      const inherited = { fds: [], variables: { IRONCLAW_LOG: "journal:notice" } };
      const spawner = await startSpawner(programs, { inherited });
      const [agent = ""] = readFileSync(`/proc/${spawner.pid}/task/${spawner.pid}/children`, "utf8").split(" ");
      expect(readFileSync(`/proc/${agent}/environ`, "utf8").split("\0")).toContain("IRONCLAW_LOG=journal:notice");
      spawner.exitAgent(0);
      await spawner.ended();
      expect(spawner.log()).toMatch(/^<3>spawner: the agent (?:ended|closed) .*; agent PCR NOT capped, rebooting$/m);
      expect(spawner.log()).not.toContain("agent started"); // the ordinary course
    } finally {
      programs.remove();
    }
  });
});

describe("the verifier's lines", () => {
  const linesOf = (...records: readonly string[]) => {
    const lines: string[] = [];
    const log = serviceLog(new Journal("verifier", (line) => lines.push(line)));
    for (const record of records) log.write(`${record}\n`);
    return lines;
  };

  test("are the event and its facts, without time, at the level of the service's own", () => {
    const record = {
      level: 30,
      time: 1,
      reqId: "req-1",
      operation: "judgeEvidence",
      status: 200,
      ms: 12,
      msg: "answered",
    };
    expect(linesOf(JSON.stringify(record))).toEqual([
      "INFO verifier: answered reqId=req-1 operation=judgeEvidence status=200 ms=12\n",
    ]);
    expect(linesOf('{"level":50,"failure":"no \\n room","msg":"failed"}')).toEqual([
      'ERROR verifier: failed failure="no \\n room"\n',
    ]);
    expect(linesOf('{"level":30,"reasons":["a","b"],"msg":"refused"}')).toEqual([
      'INFO verifier: refused reasons="[\\"a\\",\\"b\\"]"\n',
    ]);
  });

  test("a line of another kind is written too", () => {
    expect(linesOf("no json")).toEqual(["WARNING verifier: no json\n"]);
  });
});

describe("standard error that takes no line", () => {
  const statusOf = (args: readonly string[]) => {
    const full = openSync("/dev/full", "w");
    try {
      return spawnSync(process.execPath, args, { stdio: ["ignore", "ignore", full] }).status;
    } finally {
      closeSync(full);
    }
  };

  test("I11: does not end the agent: what it says is lost, and it goes on", () => {
    const script = join(directory, "says.mjs");
    const journalPath = JSON.stringify(join(root, "agent/journal.ts"));
    writeFileSync(
      script,
      `import { journal } from ${journalPath};\njournal.error("x");\nsetTimeout(process.exit, 100, 7);\n`,
    );
    expect(statusOf([script])).toBe(7);
  });

  test("does not change how the command ends", () => {
    expect(statusOf([join(root, "agent/cli/ironclaw.ts"), "agent", "--config", "/nowhere"])).toBe(4);
  });
});
