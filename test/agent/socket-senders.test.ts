import { once } from "node:events";
import { chmodSync, readlinkSync } from "node:fs";
import { dirname } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { type BrokerFixture, startBroker } from "../support/broker-fixture.ts";
import type { PolicyDocument } from "../support/policy-document.ts";
import { type Bench, openBench } from "../support/shim-fixture.ts";
import {
  buildWorkload,
  finished,
  isRoot,
  realIdentity,
  startAct,
  startActInNamespace,
  WORKLOAD_UID,
  type Workload,
} from "../support/socket-workload.ts";

let bench: Bench;
let workload: Workload;
let broker: BrokerFixture;
beforeAll(() => {
  bench = openBench();
  workload = buildWorkload(bench.directory);
});
afterAll(() => bench.remove());
beforeEach(async () => {
  broker = await startBroker({
    identify: realIdentity(),
    change: callerIsWorkload,
  });
  chmodSync(dirname(socket()), 0o755);
});
afterEach(() => broker.close());

function callerIsWorkload(document: PolicyDocument): void {
  document.callers["release-signer"] = { uid: WORKLOAD_UID, exe: [workload.exe], unit: null };
}

const socket = () => broker.socket("release-signing");
const act = (name: string, ...more: string[]) => finished(startAct(workload.path, [name, socket(), ...more]));

/** Records of refusals come after the connection has ended. */
async function refusals(count = 1): Promise<string[]> {
  const found = () => broker.records().map(({ step, decision, reason }) => `${decision} ${step} ${reason}`);
  await expect.poll(() => found().length, { interval: 5, timeout: 5000 }).toBeGreaterThanOrEqual(count);
  return found();
}

async function honestCallerIsServed(): Promise<void> {
  expect((await act("honest")).length).toBeGreaterThan(12);
}

const FOREIGN =
  /^deny caller socket message: expected bytes of the process that connected, got pid \d+, uid \d+, gid \d+$/;

describe("the sender of each message", () => {
  it("I6: the process that connected is answered", async () => {
    await honestCallerIsServed();
    expect(broker.records()).toEqual([]);
  });

  it("I6: the same program is nobody's caller in a PID namespace whose owner could speak for it", async () => {
    const connector = startActInNamespace(workload.path, ["honest", socket()]);
    if (connector === null) {
      // What is left are the tests of the parse and of a /proc that says so (identity.test.ts).
      process.stderr.write("NOT SHOWN HERE: this kernel gives no user namespaces, so nobody could forge a sender\n");
      return;
    }
    await finished(connector);
    expect(await refusals()).toEqual(["deny caller the peer could not be identified"]);
    await honestCallerIsServed();
  });

  it("I6: what a program sent before it became the caller by exec is not asked in the caller's name", async () => {
    await broker.close();
    const real = realIdentity();
    broker = await startBroker({
      change: callerIsWorkload,
      identify: async (connected) => {
        while (readlinkSync(`/proc/${connected.pid}/exe`) !== workload.path) await new Promise(setImmediate);
        return real(connected);
      },
    });
    chmodSync(dirname(socket()), 0o755);
    const connector = startAct(workload.other, ["early", socket(), workload.path]);
    expect(await finished(connector)).toEqual(new Uint8Array());
    expect(await refusals()).toEqual(["deny caller after the greeting: expected no byte before its reply, got more"]);
    await honestCallerIsServed();
  });

  it("I6: a child that asks on the socket it inherited gets no answer, and the connection ends", async () => {
    expect(await act("inherit")).toEqual(new Uint8Array());
    expect(await refusals()).toEqual([expect.stringMatching(FOREIGN)]);
    await honestCallerIsServed();
  });

  it("I6: a socket whose process has ended serves nobody who still holds it, not even one who is silent", async () => {
    expect(await act("orphan")).toEqual(new Uint8Array());
    expect(await refusals()).toEqual([
      "deny caller socket holder: expected the process that connected, got another one, after it had ended",
    ]);
  });

  it("I6: a process of the same user that was passed the socket gets no answer", async () => {
    expect(await act("pass")).toEqual(new Uint8Array());
    expect(await refusals()).toEqual([expect.stringMatching(FOREIGN)]);
  });

  it("I6: nor does one of another user, be it a more powerful one", async () => {
    // The superuser connects: it is nobody's caller, and what it passes on is refused for the other sender's sake before that.
    const connector = startAct(workload.path, ["pass", socket(), `${WORKLOAD_UID}`], isRoot ? "root" : "workload");
    expect(await finished(connector)).toEqual(new Uint8Array());
    expect(await refusals()).toEqual([expect.stringMatching(FOREIGN)]);
  });

  it("I6, I10: descriptors that come with a message end the connection, and none is left open here", async () => {
    expect(await act("descriptors")).toEqual(new Uint8Array());
    expect(await refusals()).toEqual([
      "deny caller socket message: expected bytes of the process that connected, got descriptors",
    ]);
  });

  it("I6: without privilege nobody can claim to be another sender: the kernel refuses to send", async () => {
    expect(new TextDecoder().decode(await act("forge", `${process.pid}`))).toBe("EPERM");
    await honestCallerIsServed();
  });

  it("I6: a sender that may forge a process id is refused unless it is the connector's", async () => {
    const forged = await finished(startAct(workload.path, ["forge", socket(), `${process.pid}`], "root"));
    const reasons = await refusals(isRoot ? 1 : 0);
    if (isRoot) {
      expect(forged).toEqual(new Uint8Array());
      expect(reasons).toEqual([expect.stringMatching(`got pid ${process.pid}, uid 0, gid 0$`)]);
    } else expect(new TextDecoder().decode(forged)).toBe("EPERM");
  });

  it("N4: the superuser with a caller's socket passes for that caller, and nobody else does", async () => {
    const said = await finished(startAct(workload.path, ["impersonate", socket(), `${WORKLOAD_UID}`], "root"));
    if (isRoot) expect(said.length).toBeGreaterThan(12);
    else expect(new TextDecoder().decode(said)).toBe("EPERM");
  });
});

describe("the program behind a connection", () => {
  it("I6: a neighbour of the same user with another executable is refused and recorded", async () => {
    const reply = await finished(startAct(workload.other, ["honest", socket()]));
    // CKR_FUNCTION_REJECTED, the last byte of a ulong.
    expect([...reply].at(-2)).toBe(0x02);
    const [record] = broker.records();
    expect(record).toMatchObject({ step: "caller", operation: "connect", caller: { uid: WORKLOAD_UID } });
    expect(record?.caller?.exe).not.toBe(workload.exe);
  });

  /** Connects as the caller's program, becomes the other one, and asks when a quarter of a second has passed, or at once. */
  async function askAfterExec(milliseconds: number): Promise<Uint8Array> {
    const child = startAct(workload.path, ["exec", socket(), workload.other]);
    await once(child.stdout, "data");
    broker.time += milliseconds;
    const said = finished(child);
    child.stdin.end("x");
    return said;
  }

  it("I6: a caller that runs another program by now is found out, before it is answered", async () => {
    expect(await askAfterExec(251)).toEqual(new Uint8Array());
    expect(await refusals()).toEqual([
      expect.stringMatching(`^deny caller peer executable: expected ${workload.exe}, got sha256:[0-9a-f]{64}$`),
    ]);
    await honestCallerIsServed();
  });

  it("I6: the time in which it is not is a quarter of a second", async () => {
    expect((await askAfterExec(250)).length).toBeGreaterThan(12);
  });
});
