import { createInterface } from "node:readline/promises";
import { openLab } from "./bench.ts";
import { paletteFor } from "./print.ts";
import { runLab } from "./walk.ts";

async function waitForEnter(): Promise<void> {
  const terminal = createInterface({ input: process.stdin, output: process.stdout });
  await terminal.question("Enter for the next step ");
  terminal.close();
}

process.exitCode = await runLab(process.argv.slice(2), {
  print: console.log,
  complain: console.error,
  palette: paletteFor(process.stdout.isTTY, process.env["NO_COLOR"]),
  wait: process.stdin.isTTY && process.stdout.isTTY ? waitForEnter : null,
  open: openLab,
});
