// Runs every test and closes with one line of counts. Types and lint are tests like any other (test/tree.test.ts).
import { spawn } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

interface Counts {
  readonly numPassedTests: number;
  readonly numFailedTests: number;
  readonly numPendingTests: number;
  readonly numTodoTests: number;
  readonly numFailedTestSuites: number;
  readonly success: boolean;
}

const root = resolve(import.meta.dirname, "..");

function runVitest(report: string, filters: readonly string[]): Promise<number> {
  const program = join(root, "node_modules/vitest/vitest.mjs");
  const options = [
    "run",
    "--config",
    ".config/vitest.config.ts",
    "--reporter=default",
    "--reporter=json",
    `--outputFile.json=${report}`,
  ];
  return new Promise((settle, reject) => {
    const child = spawn(process.execPath, [program, ...options, ...filters], { cwd: root, stdio: "inherit" });
    child.on("error", reject);
    child.on("close", (code) => settle(code ?? 1));
  });
}

async function main(filters: readonly string[]): Promise<number> {
  const directory = await mkdtemp(join(tmpdir(), "ironclaw-test-"));
  try {
    const code = await runVitest(join(directory, "report.json"), filters);
    const counts: Counts = JSON.parse(await readFile(join(directory, "report.json"), "utf8"));
    // A file that cannot even be loaded has no tests to fail: it counts as one.
    const failed =
      counts.numFailedTests === 0 && !counts.success ? Math.max(1, counts.numFailedTestSuites) : counts.numFailedTests;
    console.log(
      `${counts.numPassedTests} passed, ${failed} failed, ${counts.numPendingTests + counts.numTodoTests} skipped`,
    );
    return failed > 0 || counts.numPassedTests === 0 ? 1 : code;
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

process.exitCode = await main(process.argv.slice(2));
