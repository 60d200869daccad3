import { once } from "node:events";
import { createServer, type Server } from "node:net";
import { resolve } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { buildLab, type Lab, type LabStartOptions, openLab } from "../support/hostile-lab.ts";
import { byName, roundOf, sumOf, tryBothStages } from "../support/hostile-measure.ts";
import { attemptTable, OPENED, type Row, rowsOf } from "../support/hostile-table.ts";
import { type Bench, openBench } from "../support/shim-fixture.ts";

const TABLES = resolve(import.meta.dirname, "../hostile/PROFILES.md");
const tables = new Map<string, readonly Row[]>();

describe.each(["relay", "usb"] as const)("a hostile library under the profile %s", (profile) => {
  let bench: Bench;
  let lab: Lab;
  let server: Server;
  let options: LabStartOptions;
  let reached = 0;
  let measured: Awaited<ReturnType<typeof tryBothStages>>;
  beforeAll(async () => {
    bench = openBench();
    lab = openLab(buildLab(bench, profile));
    server = createServer((socket) => {
      reached += 1;
      socket.destroy();
    }).listen(0, "127.0.0.1");
    await once(server, "listening");
    const address = server.address();
    const port = typeof address === "object" && address !== null ? address.port : 0;
    options = {
      environment: { LAB_PORT: `${port}` },
      connect: profile === "relay" ? [{ listen: "127.0.0.1:1500", to: `127.0.0.1:${port}` }] : [],
    };
    measured = await tryBothStages(await lab.start(options));
  });
  afterAll(async () => {
    server.close();
    await lab.stop();
    bench.remove();
  });
  afterEach(async () => {
    expect(await lab.neighbour()).toEqual({ kind: "answer", text: "signed" });
    expect(reached, "what listens outside the shim's network").toBe(0);
  });

  test("I5: gets what the profile opens and nothing else, before ARM and after", () => {
    tables.set(profile, rowsOf(measured, OPENED[profile]));
    expect(measured.before.length).toBeGreaterThan(170);
  });

  test.each([false, true])(
    "I5: gets no more from a thread that it keeps (ARM before the attack: %s)",
    async (armed) => {
      const shim = await lab.start({ ...options, environment: { ...options.environment, LAB_FROM: "pool thread" } });
      await shim.serve();
      if (armed) await shim.call("arm");
      expect(await shim.order("sign")).toEqual({ kind: "answer", text: "signed" });
      const expected = armed ? measured.after : measured.before;
      expect(roundOf(shim)).toEqual(expected.map(({ name, errno }) => ["pool thread", name, errno]));
      expect(byName(await shim.attempts())).toEqual(sumOf(expected));
    },
  );
});

describe("a hostile library under the profile local", () => {
  let bench: Bench;
  let lab: Lab;
  beforeAll(() => {
    bench = openBench();
    lab = openLab(buildLab(bench));
  });
  afterAll(async () => {
    await lab.stop();
    bench.remove();
  });

  test("I5: has no thread to attack from", async () => {
    const shim = await lab.start({ environment: { LAB_FROM: "pool thread" } });
    await expect(shim.serve()).rejects.toMatchObject({ code: "ERR_SHIM_GONE" });
    expect(byName(await shim.attempts())).toEqual({ clone3: 1 });
  });

  test("test/hostile/PROFILES.md has what the other profiles change", async () => {
    const local = new Set(rowsOf(await tryBothStages(await lab.start())).map((row) => JSON.stringify(row)));
    const sections = [...tables].map(([profile, rows]) => {
      const changed = rows.filter((row) => !local.has(JSON.stringify(row)));
      return `## ${profile}\n\n${attemptTable(changed)}\n`;
    });
    const head =
      "# What the other profiles change\n\nMeasured as in [README.md](README.md); the rows that differ from those of `local`.";
    // vitest -u writes it anew
    await expect(`${head}\n\n${sections.join("\n")}`).toMatchFileSnapshot(TABLES);
  });
});
