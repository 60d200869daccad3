import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync } from "node:fs";
import { createInterface } from "node:readline";
import { expect, it } from "vitest";
import { startBroker } from "../support/broker-fixture.ts";
import { openSession, sign, signInit } from "../support/broker-session.ts";

// Connects one after the other and says of each whether the server answered the version byte.
const CLIENTS = `const net = require("net"); let open = []; process.stdin.once("data", async () => {
  const [path, count] = process.argv.slice(1); let served = 0;
  for (let i = 0; i < Number(count); i += 1) served += await new Promise((done) => { const s = net.connect(path);
    open.push(s); s.on("error", () => done(0)); s.on("close", () => done(0)); s.once("data", () => done(1));
    s.write(Buffer.of(0)); });
  console.log(served); process.stdin.on("end", () => process.exit()); process.stdin.resume(); });`;
const ASKED = 200;

it("I6: without a descriptor left new connections are closed at once, the others live on, and later ones are served", async () => {
  const broker = await startBroker();
  const socket = broker.socket("release-signing");
  const early = await openSession(broker);
  const child = spawn(process.execPath, ["-e", CLIENTS, socket, `${ASKED}`], { stdio: ["pipe", "pipe", "inherit"] });
  const lines = createInterface({ input: child.stdout });
  const limit = (soft: string) => execFileSync("prlimit", ["--pid", `${process.pid}`, `--nofile=${soft}:`]);
  const before = /(\d+)\s+\d+\s*$/.exec(
    execFileSync("prlimit", ["--pid", `${process.pid}`, "--nofile", "--noheadings", "-o", "SOFT,HARD"], {
      encoding: "utf8",
    }),
  );
  // Gaps below the highest one count too.
  const open = readdirSync("/proc/self/fd").map(Number);
  const most = Math.max(...open) + 21;
  try {
    limit(`${most}`);
    child.stdin.write("go\n");
    const [served] = (await once(lines, "line")) as [string];
    expect(Number(served)).toBeGreaterThan(0);
    expect(Number(served)).toBeLessThanOrEqual((most - open.length + 1) / 2);
    expect(Number(served)).toBeLessThan(ASKED);
    await signInit(early);
    expect(await sign(early)).toMatchObject({ rv: 0n });
  } finally {
    child.kill();
    await once(child, "exit");
    // To raise it takes descriptors too: as soon as the server has seen the clients' end.
    await expect.poll(() => readdirSync("/proc/self/fd").length, { timeout: 10_000 }).toBeLessThan(most - 15);
    limit(before?.[1] ?? "4096");
  }
  const late = await openSession(broker);
  await signInit(late);
  expect(await sign(late)).toMatchObject({ rv: 0n });
  await broker.close();
});
