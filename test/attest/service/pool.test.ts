import { afterEach, describe, expect, test } from "vitest";
import { defaultAppraisalPolicy } from "../../../attest/index.ts";
import type { JudgeOrder } from "../../../attest/service/judge.ts";
import { JudgePool, type PoolOptions } from "../../../attest/service/pool.ts";
import { inTime, makeEnrolment, nonce, softEccKey } from "../../support/evidence-maker.ts";
import { openVerifierBench, VIEWER } from "../../support/verifier-fixture.ts";

const program = new URL("../../support/verifier-worker-hostile.ts", import.meta.url);
const enrolment = makeEnrolment(await softEccKey());
const pools: JudgePool[] = [];
afterEach(async () => {
  for (const pool of pools.splice(0)) {
    pool.abort();
    await pool.close();
  }
});

/** A pool whose time is over when the test says so. */
function open(options: Partial<PoolOptions> = {}) {
  const failures: string[] = [];
  const failed = (kind: string) => failures.push(kind);
  const judgement = { references: [], policy: defaultAppraisalPolicy };
  const running = new Set<() => void>();
  const after = (seconds: number, over: () => void) => {
    expect(seconds).toBe(30);
    running.add(over);
    return () => running.delete(over);
  };
  const pool = new JudgePool(judgement, { workers: 1, queue: 4, judgeSeconds: 30, program, failed, after, ...options });
  pools.push(pool);
  const timeIsOver = () => {
    for (const over of [...running]) over();
  };
  return { pool, failures, timeIsOver, running };
}
const order = (first: number): JudgeOrder => ({
  ...{
    evidence: Uint8Array.of(first),
    challenge: { nonce, bank: "sha256", pcrs: [0] },
    challenged: inTime,
    now: inTime,
  },
  ...{ enrolment, previous: null },
});

describe("the judging threads", () => {
  test.each<[string, number, string]>([
    ["one that throws", 1, "ERR_WORKER_FAILED"],
    ["one that ends", 2, "ERR_WORKER_FAILED"],
    ["one that never ends", 3, "ERR_WORKER_TIMEOUT"],
    ["one that hoards memory", 4, "ERR_WORKER_FAILED"],
  ])("I10: %s fails its order with a typed error and is replaced", async (_, first, code) => {
    const { pool, failures, timeIsOver, running } = open();
    const [bad, good] = [pool.judge(order(first)), pool.judge(order(0))];
    if (code === "ERR_WORKER_TIMEOUT") timeIsOver();
    await expect(bad).rejects.toMatchObject({ code });
    expect(await good).toMatchObject({ kind: "refused" });
    expect(running.size).toBe(0);
    expect(failures).toEqual([code === "ERR_WORKER_TIMEOUT" ? "timeout" : "crash"]);
    expect(pool.workers).toBe(1);
  });

  test("a fault that the thread reports itself costs no thread", async () => {
    const { pool, failures } = open();
    await expect(pool.judge(order(5))).rejects.toMatchObject({ code: "ERR_WORKER_FAILED" });
    expect(failures).toEqual([]);
  });

  test("I10: more than the queue holds is refused at once, and what waits is judged", async () => {
    const { pool, timeIsOver } = open({ queue: 2 });
    const hanging = pool.judge(order(3));
    const waiting = [pool.judge(order(0)), pool.judge(order(0))];
    await expect(pool.judge(order(0))).rejects.toMatchObject({ code: "ERR_WORKER_BUSY" });
    expect(pool.depth).toBe(3);
    timeIsOver();
    await expect(hanging).rejects.toMatchObject({ code: "ERR_WORKER_TIMEOUT" });
    expect((await Promise.all(waiting)).length).toBe(2);
    expect(pool.depth).toBe(0);
  });

  test("that are closed end what runs first, and take nothing new", async () => {
    const { pool } = open();
    const running = pool.judge(order(0));
    const closed = pool.close();
    await expect(pool.judge(order(0))).rejects.toMatchObject({ code: "ERR_WORKER_CLOSED" });
    expect(await running).toMatchObject({ kind: "refused" });
    await closed;
    expect(pool.workers).toBe(0);
  });

  test("that must end at once give up what runs", async () => {
    const { pool } = open();
    const running = pool.judge(order(3));
    const given = expect(running).rejects.toMatchObject({ code: "ERR_WORKER_CLOSED" });
    pool.abort();
    await given;
  });

  test("I10: behind the interface a report that kills its thread is answered with a code, and the next one judged", async () => {
    await using bench = await openVerifierBench({ dependencies: { workerProgram: program } });
    for (const what of [1, 2, 5]) {
      const name = `hostile-${what}`;
      const answer = await bench.attest(name, await bench.enrol(name));
      expect([answer.status, answer.body.error.code]).toEqual([503, "not-judged"]);
    }
    expect((await bench.attest("m1", await bench.enrol("m1"))).status).toBe(422);
    const { text } = await bench.ask("GET", "/metrics", { token: VIEWER });
    expect(text).toContain('ironclaw_verifier_worker_failures_total{kind="crash"} 2');
    expect((await bench.ask("GET", "/healthz")).status).toBe(200);
  });
});
