import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { addReasons, enter } from "../../../agent/launch/environment.ts";
import { Domains } from "../../../agent/shims/domains.ts";
import { IncidentLog, ROOM } from "../../../agent/shims/incidents.ts";
import { sha256, utf8 } from "../../../policy/index.ts";
import { syscallNumber } from "../../../policy/runtime/syscalls.ts";
import type { CountingToken } from "../../support/counting-token.ts";
import { changeModule } from "../../support/launch-documents.ts";
import { type Boot, type LaunchBench, openLaunchBench, type Provisioned } from "../../support/launch-fixture.ts";
import { openReporter, type Reporter, report } from "../../support/reporter.ts";

let bench: LaunchBench;
let machine: Provisioned;
let counter: CountingToken;
beforeAll(async () => {
  bench = await openLaunchBench({ token: "counting" });
  machine = await bench.provision({ policy: (draft) => changeModule(draft, { spares: 1 }) });
  if (bench.token.counter === null) throw new Error("a token that counts");
  counter = bench.token.counter;
});
afterAll(() => bench[Symbol.asyncDispose]());
afterEach(() => counter.unset("attacks"));

interface Serving {
  readonly domains: Domains;
  readonly reporter: Reporter;
  readonly sign: () => Promise<Uint8Array>;
}

/** What the service makes of a good launch: the same parts, on the launch's own log and record. */
async function serve(booted: Boot, onViolation: "kill" | "report"): Promise<Serving> {
  const { launched, record, log } = booted;
  if (launched === null) throw new Error("launched");
  const reporter = await openReporter(bench, booted);
  const { audit } = reporter.sources;
  const domains = new Domains({
    ...{ tokens: launched.tokens, onViolation, onLoginLost: "stop", store: null },
    keys: new Map(launched.keys.map(({ name, token }) => [name, token])),
    incidents: new IncidentLog({ log, audit, record }),
    stopShim: (id) => booted.spawner.stopShim(id),
    capAndReboot: (reason) => booted.spawner.capAndReboot(reason),
    onReasons: (reasons) => log.locked(async () => addReasons(record, reasons)),
    onStopped: (reasons) => log.locked(async () => enter(record, { kind: "stopped", reasons })),
  });
  launched.bell.ring = () => domains.checkAttempts();
  const request = { mechanism: 0x1041n, pss: null, data: sha256(utf8("a message")) };
  const sign = () => domains.use("release-ec", (shim, place) => shim.sign({ ...place, ...request }));
  return { domains, reporter, sign };
}

const socket = syscallNumber("socket") ?? -1;

describe("a report of a machine whose library attacks while it serves", () => {
  test("I5 I9: tells the attempt, in log and claims, and that nothing is served any more, and it verifies", async () => {
    await using booted = await bench.boot(machine);
    const { domains, reporter, sign } = await serve(booted, "kill");
    expect(await sign()).toHaveLength(64);
    counter.set("attacks", "sign");
    await expect(sign()).rejects.toMatchObject({ code: "ERR_TOKEN_STOPPED" });
    await domains.settled();
    const { claims, agentLog } = await report(reporter);
    expect(claims.measured.launch).toBe("stopped");
    expect(claims.asserted.reasons).toMatchObject([{ code: "sandbox-violation", item: "counting" }]);
    expect(claims.asserted.incidents).toMatchObject([
      { what: "syscall", token: "counting", shim: 0, syscall: "socket", nr: socket, count: expect.any(Number) },
    ]);
    expect(claims.asserted.violations).toEqual(new Map([["socket", 1]]));
    expect(agentLog.at(-1)?.event).toMatchObject({ kind: "violation", name: "counting/0 socket" });
    // What is on the disk: the record is in the kernel, and may have got there meanwhile.
    expect(claims.asserted.audit.seq).toBeLessThanOrEqual(1);
    expect(reporter.sources.audit.head().seq).toBe(1);
    domains.close();
  });

  test("I8 I9: holds every attempt made before a signature that was released, each time, and goes on serving", async () => {
    await using booted = await bench.boot(machine);
    const { domains, reporter, sign } = await serve(booted, "report");
    counter.set("attacks", "sign");
    for (let count = 1; count <= 5; count++) {
      expect(await sign()).toHaveLength(64);
      const { claims } = await report(reporter, count % 2 === 0 ? "sha256" : "sha384");
      expect([claims.asserted.incidents.length, claims.asserted.violations.get("socket")]).toEqual([count, count]);
      expect(claims.measured.launch).toBe("serving");
    }
    domains.close(); // before its shims end with the bench's machine
  });

  test("I9 I10: of a flood has the first ones and the count, and still room for shims that are replaced", async () => {
    await using booted = await bench.boot(machine);
    const { domains, reporter, sign } = await serve(booted, "report");
    counter.set("attacks", "sign");
    const rounds = ROOM.syscall + 12;
    for (let count = 0; count < rounds; count++) await sign();
    counter.unset("attacks");
    booted.processOf(0)?.kill("SIGKILL");
    await expect.poll(() => domains.shims.map(({ role }) => role)).toEqual(["ended", "active"]);
    await domains.settled();
    const { claims } = await report(reporter);
    expect(claims.asserted.incidents).toHaveLength(ROOM.syscall + 1);
    expect(claims.asserted.incidents.at(-1)).toMatchObject({ what: "replacement", from: 0, to: 1 });
    expect(claims.asserted.violations).toEqual(new Map([["socket", rounds]])); // of the shim that ended
    expect(await sign()).toHaveLength(64);
    domains.close();
  });
});
