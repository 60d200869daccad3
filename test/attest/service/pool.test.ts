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

function open(options: Partial<PoolOptions> = {}) {
  const failures: string[] = [];
  const failed = (kind: string) => failures.push(kind);
  const judgement = { references: [], policy: defaultAppraisalPolicy };
  const pool = new JudgePool(judgement, { workers: 1, queue: 4, judgeSeconds: 30, program, failed, ...options });
  pools.push(pool);
  return { pool, failures };
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
  test.each<[string, number, string, number]>([
    ["one that throws", 1, "ERR_WORKER_FAILED", 30],
    ["one that ends", 2, "ERR_WORKER_FAILED", 30],
    ["one that never ends", 3, "ERR_WORKER_TIMEOUT", 0.2],
    ["one that hoards memory", 4, "ERR_WORKER_FAILED", 60],
  ])("I10: %s fails its order with a typed error and is replaced", async (_, first, code, judgeSeconds) => {
    const { pool, failures } = open({ judgeSeconds });
    const [bad, good] = [pool.judge(order(first)), pool.judge(order(0))];
    await expect(bad).rejects.toMatchObject({ code });
    expect(await good).toMatchObject({ kind: "refused" });
    expect(failures).toEqual([code === "ERR_WORKER_TIMEOUT" ? "timeout" : "crash"]);
    expect(pool.workers).toBe(1);
  });

  test("a fault that the thread reports itself costs no thread", async () => {
    const { pool, failures } = open();
    await expect(pool.judge(order(5))).rejects.toMatchObject({ code: "ERR_WORKER_FAILED" });
    expect(failures).toEqual([]);
  });

  test("I10: more than the queue holds is refused at once, and what waits is judged", async () => {
    const { pool } = open({ queue: 2, judgeSeconds: 0.3 });
    const hanging = pool.judge(order(3));
    const waiting = [pool.judge(order(0)), pool.judge(order(0))];
    await expect(pool.judge(order(0))).rejects.toMatchObject({ code: "ERR_WORKER_BUSY" });
    expect(pool.depth).toBe(3);
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
    await bench.enrol("m1");
    const send = async (first: number) => bench.send(await bench.challenge("m1"), Uint8Array.of(first), VIEWER);
    for (const first of [1, 2, 5]) {
      const answer = await send(first);
      expect([answer.status, answer.body.error.code]).toEqual([503, "not-judged"]);
    }
    expect((await send(0)).status).toBe(422);
    const { text } = await bench.ask("GET", "/metrics");
    expect(text).toContain('ironclaw_verifier_worker_failures_total{kind="crash"} 2');
    expect((await bench.ask("GET", "/healthz")).status).toBe(200);
  });
});
