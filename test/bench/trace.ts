import { openServiceBench } from "../support/service-fixture.ts";
import { TPM_CC } from "../support/tpm-bus.ts";

const names = new Map(Object.entries(TPM_CC).map(([n, c]) => [c, n]));
await using bench = await openServiceBench();
for (let i = 0; i < 4; i++) {
  const a = await bench.start({ program: process.argv[2]! });
  while (!/ agent: (?:serving|refused)/.test(a.console())) await new Promise((r) => setTimeout(r, 5));
  const s = await a.launched();
  await a.stop();
  if (i === 3) {
    console.log(JSON.stringify(s["phases"]));
    const { bus } = bench.bench;
    bus.commands.forEach((c, k) =>
      console.log(k, c.client, names.get(c.code) ?? c.code.toString(16), bus.times[k]?.toFixed(2)),
    );
  }
}
