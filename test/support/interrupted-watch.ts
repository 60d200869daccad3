import { readdirSync, readFileSync } from "node:fs";
import { getPriority } from "node:os";
import { native, startShim } from "./shim-fixture.ts";

// A shim's probe, eight times, below an agent whose calls may be interrupted (interrupted.c). Argument: the profile. One line of JSON.

const [profile = ""] = process.argv.slice(2);
const { shim, child } = await startShim(native(), { profile });
const answers = new Set<number>();
const totals: number[] = [];
for (let round = 0; round < 8; round++) {
  for (const { errno } of await shim.probe()) answers.add(errno);
  totals.push(shim.watch.total());
}
// proc(5): the 19th field of stat; the second one is in brackets and may hold anything
const niceOf = (task: string): number =>
  Number(
    readFileSync(`/proc/self/task/${task}/stat`, "utf8")
      .replace(/^.*\) /, "")
      .split(" ")[16],
  );
const slower = readdirSync("/proc/self/task").filter((task) => niceOf(task) > getPriority()).length;
const blind = shim.watch.blind();
child.kill("SIGKILL");
console.log(JSON.stringify({ answers: [...answers].sort((a, b) => a - b), totals, blind, slower }));
