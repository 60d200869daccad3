import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type NumberedAgent, type Outcome, type Reuse, startNumberedAgent } from "../support/reused-pid.ts";
import { type Bench, openBench } from "../support/shim-fixture.ts";
import { buildWorkload } from "../support/socket-workload.ts";

let bench: Bench;
/** On this machine's kernel, and on one that does not say which process connected, only its number (before Linux 6.5). */
let agents: Record<"own" | "old", NumberedAgent | null>;
beforeAll(() => {
  bench = openBench();
  const workload = buildWorkload(bench.directory, "reused-pid");
  agents = { own: startNumberedAgent(workload), old: startNumberedAgent(workload, "old") };
});
afterAll(async () => {
  await agents.own?.close();
  await agents.old?.close();
  bench.remove();
});

/** Null where nobody here may choose a number: what is left are the tests with other sources (identity.test.ts, channel.test.ts). */
async function outcomeOf(reuse: Reuse, kernel: "own" | "old" = "own"): Promise<Outcome | null> {
  const agent = agents[kernel];
  if (agent !== null) return agent.run(reuse);
  process.stderr.write("NOT SHOWN HERE: this kernel gives no PID namespaces, so no number is reused on purpose\n");
  return null;
}

const NOBODY = {
  ...{ answered: 0, signed: 0, status: 0 },
  records: expect.arrayContaining([
    "deny caller socket holder: expected the process that connected, got another one, after it had ended",
  ]),
};
/** What the one that connected runs, and what the one with its number does; "other" is a neighbour of the same user. */
const PROGRAMS = [
  { connector: "allowed", next: "other" },
  { connector: "allowed", next: "allowed" },
  { connector: "other", next: "allowed" },
] as const;
const MOMENTS = {
  accepted: "between connect and accept",
  looked: "between accept and the look at the program",
  asked: "with its question waiting in the socket",
} as const;
const CASES = (["accepted", "looked", "asked"] as const).flatMap((when) =>
  PROGRAMS.map((programs) => ({ when, moment: MOMENTS[when], ...programs })),
);

describe.each(["p11kit", "native"] as const)("a number that was given anew, at the %s door", (door) => {
  it("I6: who connected is answered", async () => {
    const outcome = await outcomeOf({ when: "never", door, connector: "allowed", next: "allowed" });
    if (outcome === null) return;
    expect(outcome).toMatchObject({ signed: door === "native" ? 1 : 0, status: 0 });
    expect(outcome.answered).toBeGreaterThan(12);
    expect(outcome.records.filter((record) => record.startsWith("deny"))).toEqual([]);
  });

  it.each(CASES)(
    "I6: after a connector ($connector program), one with its number ($next program) gets no answer, $moment",
    async (reuse) => {
      const outcome = await outcomeOf({ ...reuse, door });
      if (outcome !== null) expect(outcome).toEqual(NOBODY);
    },
  );

  it.each(CASES.filter(({ when }) => when !== "accepted"))(
    "I6: nor where the kernel knows no more of a connector ($connector) than its number: one of the $next program, $moment",
    async (reuse) => {
      const outcome = await outcomeOf({ ...reuse, door }, "old");
      if (outcome !== null) expect(outcome).toEqual(NOBODY);
    },
  );

  it("N4: there, between connect and accept, a caller's own program with the number is the caller for what it sends itself", async () => {
    const served = await outcomeOf({ when: "accepted", door, connector: "other", next: "allowed" }, "old");
    const refused = await outcomeOf({ when: "accepted", door, connector: "allowed", next: "other" }, "old");
    if (served === null || refused === null) return;
    expect(served).toMatchObject({ signed: door === "native" ? 1 : 0, status: 0 });
    expect(refused).toMatchObject({ signed: 0, status: 0 });
    expect(refused.records[0]).toMatch(/^deny caller executable sha256:[0-9a-f]{64} is not listed for release-signer$/);
  });
});
