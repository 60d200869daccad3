import { createPublicKey, verify } from "node:crypto";
import { setImmediate as turn } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { AgentError } from "../../../agent/errors.ts";
import { sha256, utf8 } from "../../../policy/index.ts";
import { makeCountingToken } from "../../support/counting-token.ts";
import { type DomainBench, type DomainToken, openDomainBench, type TestDomain } from "../../support/domain-fixture.ts";
import { buildHostile, makeToken, SOFTHSM, TEST_PIN, writeHostProfile } from "../../support/shim-fixture.ts";

const MESSAGE = utf8("a message to sign");
const CALLERS = 16;
/** Quick requests that the first shim takes by itself. */
const QUICK = 6;

let slowExtend: () => Promise<void> = async () => undefined;
let bench: DomainBench;
let counted: DomainToken;
let attacker: DomainToken;
let spki: Uint8Array;

beforeEach(async () => {
  bench = await openDomainBench({ beforeExtend: () => slowExtend() });
  const counting = makeCountingToken(bench.bench, { pin: TEST_PIN, directory: `${bench.bench.directory}/counting` });
  const { environment, directory, library } = counting;
  ({ spki } = counting);
  const profile = writeHostProfile(bench.bench, { environment, tokens: directory });
  counted = { library, environment, profile, pin: TEST_PIN };
  attacker = { library: buildHostile(bench.bench, "attacker", "module"), environment: {}, profile, pin: "x" };
});
afterEach(async () => {
  slowExtend = async () => undefined;
  await bench.close();
});

const codeOf = (error: unknown) => (error instanceof AgentError ? error.code : String(error));
const rolesOf = ({ domain }: TestDomain) => domain.shims.map(({ role }) => role);
const eventsOf = async () => (await bench.measured()).map(({ event: { kind, name } }) => `${kind} ${name}`);
const made = async ({ shims }: TestDomain, id: number) => Number(await shims[id]?.status());

async function sign({ domain }: TestDomain): Promise<"good" | "bad"> {
  const signature = await domain.use("release-ec", (shim, place) =>
    shim.sign({ ...place, mechanism: 0x1041n, pss: null, data: sha256(MESSAGE) }),
  );
  const key = createPublicKey({ key: Buffer.from(spki), format: "der", type: "spki" });
  return verify("sha256", MESSAGE, { key, dsaEncoding: "ieee-p1363" }, signature) ? "good" : "bad";
}

/** So many requests that are under way until `end`; `asked` has the shim of each. */
function hold({ domain, shims }: TestDomain, key: string, count: number) {
  const gate = Promise.withResolvers<void>();
  const asked: number[] = [];
  const held = Array.from({ length: count }, () =>
    domain.use(key, async (shim) => {
      asked.push(shims.indexOf(shim));
      await gate.promise;
    }),
  );
  return { asked, end: () => gate.resolve(), outcomes: Promise.all(held.map((one) => one.then(() => "good", codeOf))) };
}

describe("a token that two shims serve", () => {
  test("I10: quick requests are the first shim's up to six, slow ones up to one, and then go to the shim that has the fewest", async () => {
    const token = makeToken(bench.bench);
    const profile = writeHostProfile(bench.bench, token);
    const softhsm = { library: SOFTHSM, environment: token.environment, profile, pin: TEST_PIN, label: "bench" };
    const opened = await bench.open(softhsm, { shims: 2, spares: 1 });
    expect(rolesOf(opened)).toEqual(["active", "active", "spare"]);
    const quick = hold(opened, "ec", CALLERS);
    expect(quick.asked).toEqual([...Array(QUICK).fill(0), ...Array(QUICK).fill(1), 0, 1, 0, 1]);
    quick.end();
    await quick.outcomes;
    const slow = hold(opened, "rsa", 5);
    expect(slow.asked).toEqual([0, 1, 0, 1, 0]);
    slow.end();
    expect(await slow.outcomes).toEqual(Array(5).fill("good"));
    expect(hold(opened, "ec", 1).asked).toEqual([0]);
  });

  test.each([0, 1])(
    "I5 I8: shim %i of them killed under load ends what it was asked, none of it is asked twice, and a spare takes its place",
    async (victim) => {
      const opened = await bench.open(counted, { shims: 2, spares: 1 });
      let done = 0;
      const caller = async () => {
        const outcomes: string[] = [];
        for (let at = 0; at < 12; at++) {
          outcomes.push(await sign(opened).catch(codeOf));
          done += 1;
          // stopped first, so that there is something that it was asked and has not answered
          if (done === 40) opened.processes[victim]?.kill("SIGSTOP");
          if (done === 60) opened.processes[victim]?.kill("SIGKILL");
        }
        return outcomes;
      };
      const outcomes = (await Promise.all(Array.from({ length: CALLERS }, caller))).flat();
      const good = outcomes.filter((outcome) => outcome === "good").length;
      const gone = outcomes.filter((outcome) => outcome === "ERR_SHIM_GONE").length;
      expect([good + gone, gone >= 1, gone < CALLERS]).toEqual([CALLERS * 12, true, true]);
      await opened.domain.settled();
      expect(rolesOf(opened)).toEqual(victim === 0 ? ["ended", "active", "active"] : ["active", "ended", "active"]);
      // The two that are left made no more than what was given out.
      expect((await made(opened, 1 - victim)) + (await made(opened, 2))).toBeLessThanOrEqual(good);
      expect(bench.recorded()).toMatchObject([{ what: "replacement", from: victim, to: 2 }]);
      expect(opened.ends).toEqual([]);
    },
  );

  test("I8: while a takeover is written down the other one serves, and the spare is asked for nothing", async () => {
    const opened = await bench.open(counted, { shims: 2, spares: 1 });
    const gate = Promise.withResolvers<void>();
    slowExtend = () => gate.promise;
    opened.processes[0]?.kill("SIGKILL");
    await opened.shims[0]?.closed;
    await turn();
    const outcomes = await Promise.all(Array.from({ length: CALLERS }, () => sign(opened)));
    expect(outcomes).toEqual(Array(CALLERS).fill("good"));
    expect([await made(opened, 1), await made(opened, 2)]).toEqual([CALLERS, 0]);
    expect(rolesOf(opened)).toEqual(["ended", "active", "spare"]);
    gate.resolve();
    await opened.domain.settled();
    expect(rolesOf(opened)).toEqual(["ended", "active", "active"]);
    const held = hold(opened, "release-ec", 2 * QUICK);
    expect(held.asked).toEqual([...Array(QUICK).fill(2), ...Array(QUICK).fill(1)]);
  });

  test("I5 I8: without a spare the other one goes on, which the record says, and the loss of the last is the login's", async () => {
    const opened = await bench.open(counted, { shims: 2 });
    opened.processes[0]?.kill("SIGKILL");
    await opened.shims[0]?.closed;
    expect(await sign(opened)).toBe("good");
    await opened.domain.settled();
    expect([rolesOf(opened), opened.ends]).toEqual([["ended", "active"], []]);
    opened.processes[1]?.kill("SIGKILL");
    await opened.shims[1]?.closed;
    await expect(sign(opened)).rejects.toMatchObject({ code: "ERR_TOKEN_STOPPED" });
    await opened.domain.settled();
    expect(opened.ends).toMatchObject([{ kind: "lost", reasons: [{ code: "login-lost" }] }]);
    expect(bench.recorded()).toMatchObject([
      { from: 0, to: -1 },
      { from: 1, to: -1 },
    ]);
    expect(bench.audited().map(({ decision, reason }) => `${decision} ${reason.split(":")[0]}`)).toEqual([
      "deny shim 0 ended, no spare is left, 1 serve on",
      "deny shim 1 ended, none is left",
    ]);
    expect(await eventsOf()).toEqual(["shim-replaced signing", "shim-replaced signing"]);
  });

  test("I5: both that end at once are one loss, each with its record", async () => {
    const opened = await bench.open(counted, { shims: 2, spares: 1 });
    for (const child of opened.processes) child.kill("SIGKILL");
    for (const shim of opened.shims) await shim.closed;
    await expect(sign(opened)).rejects.toMatchObject({ code: "ERR_TOKEN_STOPPED" });
    await opened.domain.settled();
    expect(opened.ends).toMatchObject([{ kind: "lost" }]);
    const ended = bench.recorded().map((incident) => ("from" in incident ? incident.from : -1));
    expect(new Set(ended).size).toBe(ended.length);
    expect(ended).toEqual(expect.arrayContaining([0, 1]));
  });
});

describe("a library that attacks in the second of two shims", () => {
  /** The errno of an attack made inside C_Sign of the second shim: the first has all that it takes by itself. */
  async function attackBySecond(opened: TestDomain) {
    const held = hold(opened, "7", QUICK);
    expect(new Set(held.asked)).toEqual(new Set([0]));
    const asked: number[] = [];
    const outcome = opened.domain.use("7", async (shim, place) => {
      asked.push(opened.shims.indexOf(shim));
      const [errno] = await shim.sign({ ...place, mechanism: 0x1041n, pss: null, data: utf8("f") });
      return errno ?? -1;
    });
    expect(asked).toEqual([1]);
    return { held, outcome };
  }

  test("I5: under `kill` gets nothing out of either, and both end", async () => {
    const opened = await bench.open(attacker, { shims: 2, spares: 1 });
    const { held, outcome } = await attackBySecond(opened);
    await expect(outcome).rejects.toMatchObject({ code: "ERR_TOKEN_STOPPED" });
    held.end();
    expect(await held.outcomes).toEqual(Array(QUICK).fill("ERR_TOKEN_STOPPED"));
    await opened.domain.settled();
    expect(opened.stopped).toEqual([0, 1, 2]);
    expect(opened.ends).toMatchObject([{ kind: "violation", reasons: [{ code: "sandbox-violation" }] }]);
    expect((await eventsOf())[0]).toBe("violation signing/1 socket");
  });

  test("I8: under `report` its answer is released once its attempts are in the agent PCR", async () => {
    const opened = await bench.open(attacker, { shims: 2, onViolation: "report" });
    const gate = Promise.withResolvers<void>();
    slowExtend = () => gate.promise;
    const { held, outcome } = await attackBySecond(opened);
    let released = false;
    const answer = outcome.finally(() => {
      released = true;
    });
    await expect.poll(() => Object.keys(opened.attempts()).length).toBe(1);
    await expect.poll(() => made(opened, 1)).toBe(1);
    for (let at = 0; at < 50; at++) await turn();
    expect(released).toBe(false);
    gate.resolve();
    expect(await answer).toBe(1);
    held.end();
    expect(await held.outcomes).toEqual(Array(QUICK).fill("good"));
  });
});
