import { copyFileSync, rmSync, writeFileSync } from "node:fs";
import { bundleProgram } from "../../vm-images/bundle.ts";
import { openServiceBench } from "../support/service-fixture.ts";

const [mode, ...rest] = process.argv.slice(2);
if (mode === "bundle") {
  writeFileSync(rest[0]!, await bundleProgram(new URL("../../agent/main.ts", import.meta.url).pathname));
  process.exit(0);
}
const rounds = Number(mode);
await using bench = await openServiceBench();
const all = new Map<string, number[][]>();
const names = ["loading", "booted", "measuring", "unsealing", "logging-in", "checking-keys", "capping"];
for (let i = 0; i < rounds + 1; i++)
  for (const program of rest) {
    const [file, unsealer] = program.split(":");
    if (unsealer) {
      rmSync("build/native/unsealer");
      copyFileSync(unsealer, "build/native/unsealer");
    }
    const a = await bench.start({ program: file!, withoutBus: true });
    while (!/ agent: (?:serving|refused)/.test(a.console())) await new Promise((r) => setTimeout(r, 5));
    const s = await a.launched();
    await a.stop();
    const p = s["phases"] as { phase: string; at: number }[];
    const d = names.map((n) => {
      const k = p.findIndex((e) => e.phase === n);
      return p[k + 1]!.at - p[k]!.at;
    });
    if (i > 0) {
      const l = all.get(program) ?? [];
      l.push([...d, d.slice(2).reduce((x, y) => x + y, 0)]);
      all.set(program, l);
    }
  }
for (const [program, l] of all) {
  const q = (f: number) =>
    [...names, "launch"]
      .map((_, k) => {
        const c = l.map((r) => r[k]!).sort((x, y) => x - y);
        return c[Math.floor(c.length * f)];
      })
      .join(" ");
  console.log(program, "q1", q(0.25), "| med", q(0.5));
}
