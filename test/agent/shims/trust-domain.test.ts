import type { ChildProcess } from "node:child_process";
import { createPublicKey, verify } from "node:crypto";
import { once } from "node:events";
import { setImmediate as turn } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { AgentError } from "../../../agent/errors.ts";
import type { Shim } from "../../../agent/shim-client.ts";
import { type IncidentLog, ROOM } from "../../../agent/shims/incidents.ts";
import { MAX_WAITING, TrustDomain } from "../../../agent/shims/trust-domain.ts";
import { sha256, utf8 } from "../../../policy/index.ts";
import { syscallNumber } from "../../../policy/runtime/syscalls.ts";
import { makeCountingToken } from "../../support/counting-token.ts";
import {
  type DomainBench,
  type DomainOptions,
  type DomainToken,
  openDomainBench,
  type TestDomain,
} from "../../support/domain-fixture.ts";
import { buildHostile, makeToken, SOFTHSM, TEST_PIN, writeHostProfile } from "../../support/shim-fixture.ts";

const MESSAGE = utf8("a message to sign");
const EPERM = 1;
const SOCKET = syscallNumber("socket") ?? -1;

let slowExtend: () => Promise<void> = async () => undefined;
let bench: DomainBench;
let counting: ReturnType<typeof makeCountingToken>;
let counted: DomainToken;
let attacker: DomainToken;

beforeEach(async () => {
  bench = await openDomainBench({ beforeExtend: () => slowExtend() });
  counting = makeCountingToken(bench.bench, { pin: TEST_PIN, directory: `${bench.bench.directory}/counting` });
  const { environment, directory } = counting;
  const profile = writeHostProfile(bench.bench, { environment, tokens: directory });
  counted = { library: counting.library, environment, profile, pin: TEST_PIN };
  const library = buildHostile(bench.bench, "attacker", "module");
  attacker = { library, environment: {}, profile, pin: "x" };
});
afterEach(async () => {
  slowExtend = async () => undefined;
  await bench.close();
});

/** SoftHSM costs an RSA key: only where it matters. */
function openSoftHsm(): DomainToken {
  const token = makeToken(bench.bench);
  const profile = writeHostProfile(bench.bench, token);
  return { library: SOFTHSM, environment: token.environment, profile, pin: TEST_PIN, label: "bench" };
}

const codeOf = (error: unknown) => (error instanceof AgentError ? error.code : String(error));

function sign({ domain }: TestDomain, key = "release-ec"): Promise<Uint8Array> {
  return domain.use(key, (shim, place) =>
    shim.sign({ ...place, mechanism: 0x1041n, pss: null, data: sha256(MESSAGE) }),
  );
}

/** The errno of an attack made inside C_Sign. */
async function attack({ domain }: TestDomain, letter: string): Promise<number> {
  const signature = await domain.use("7", (shim, place) =>
    shim.sign({ ...place, mechanism: 0x1041n, pss: null, data: utf8(letter) }),
  );
  return signature[0] ?? -1;
}

function isGood(signature: Uint8Array): boolean {
  const publicKey = createPublicKey({ key: Buffer.from(counting.spki), format: "der", type: "spki" });
  return verify("sha256", MESSAGE, { key: publicKey, dsaEncoding: "ieee-p1363" }, signature);
}

/** Sixteen callers at once, each with one request after the other; how each request ended. */
async function load(opened: TestDomain, each: number, meanwhile: (done: number) => void): Promise<readonly string[]> {
  const outcomes: string[] = [];
  const caller = async () => {
    for (let at = 0; at < each; at++) {
      outcomes.push(await sign(opened).then((signature) => (isGood(signature) ? "good" : "bad"), codeOf));
      meanwhile(outcomes.length);
    }
  };
  await Promise.all(Array.from({ length: 16 }, caller));
  return outcomes;
}

/** A shim whose connection was closed ends by itself, unless SIGKILL is faster. */
async function endOf(child: ChildProcess | undefined): Promise<void> {
  if (child?.exitCode === null && child.signalCode === null) await once(child, "exit");
}

const tally = (outcomes: readonly string[]) =>
  Object.fromEntries(
    Map.groupBy(outcomes, (outcome) => outcome)
      .entries()
      .map(([name, all]) => [name, all.length]),
  );
const eventsOf = async () => (await bench.measured()).map(({ event: { kind, name } }) => `${kind} ${name}`);
const reasonsOf = ({ ends }: TestDomain) =>
  ends.flatMap(({ kind, reasons }) => reasons.map(({ code }) => `${kind} ${code}`));
const made = async ({ shims }: TestDomain, id: number) => Number(await shims[id]?.status());

describe("a token with a spare shim", () => {
  const ways: readonly (readonly [string, NodeJS.Signals, DomainOptions])[] = [
    ["is killed", "SIGKILL", {}],
    ["hangs", "SIGSTOP", { timeoutMs: 400 }],
  ];

  test.each(ways)(
    "I5 I8: one that %s under load ends what it was asked, none of it is asked twice, and the spare serves what comes then",
    async (_, signal, options) => {
      const opened = await bench.open(counted, { spares: 1, ...options });
      const [first] = opened.processes;
      const outcomes = await load(opened, 12, (done) => {
        if (done === 60) first?.kill(signal);
      });
      const { good = 0, ERR_SHIM_GONE: gone = 0, ...others } = tally(outcomes);
      expect(others).toEqual({});
      expect([good + gone, gone >= 1, gone <= 16]).toEqual([16 * 12, true, true]);
      expect(opened.domain.shims).toEqual([
        { token: "signing", id: 0, role: "ended" },
        { token: "signing", id: 1, role: "active" },
      ]);
      await endOf(first); // a shim that hangs is not left behind
      // What ended was not asked of the spare as well: it made only what was given out.
      expect(await made(opened, 1)).toBeLessThanOrEqual(good);
      expect(await eventsOf()).toEqual(["shim-replaced signing"]);
      expect(bench.recorded()).toMatchObject([{ what: "replacement", from: 0, to: 1 }]);
      expect(bench.audited()).toMatchObject([{ operation: "shim", scope: "signing", decision: "allow" }]);
      expect(opened.ends).toEqual([]);
    },
  );

  test("I8: a spare serves only once the agent PCR says that it does", async () => {
    const opened = await bench.open(counted, { spares: 1 });
    const gate = Promise.withResolvers<void>();
    slowExtend = () => gate.promise;
    opened.processes[0]?.kill("SIGKILL");
    await opened.shims[0]?.closed;
    await turn();
    let answered = false;
    const signing = sign(opened).finally(() => {
      answered = true;
    });
    for (let at = 0; at < 50; at++) await turn();
    expect([answered, await made(opened, 1)]).toEqual([false, 0]);
    gate.resolve();
    expect(isGood(await signing)).toBe(true);
    expect(await eventsOf()).toEqual(["shim-replaced signing"]);
  });

  test("I5: spares that ended before they were needed are passed over, and when none is left the login is lost", async () => {
    const opened = await bench.open(counted, { spares: 2 });
    opened.processes[1]?.kill("SIGKILL");
    await opened.shims[1]?.closed;
    opened.processes[0]?.kill("SIGKILL");
    await opened.shims[0]?.closed;
    expect(isGood(await sign(opened))).toBe(true);
    opened.processes[2]?.kill("SIGKILL");
    await opened.shims[2]?.closed;
    await expect(sign(opened)).rejects.toMatchObject({ code: "ERR_TOKEN_STOPPED" });
    expect(reasonsOf(opened)).toEqual(["lost login-lost"]);
    expect(bench.recorded()).toMatchObject([
      { from: 0, to: 2 },
      { from: 2, to: -1 },
    ]);
    expect(bench.audited().map(({ decision }) => decision)).toEqual(["allow", "deny"]);
  });

  test("I5: an HSM that has logged everybody out ends each shim as it says so, and then the token", async () => {
    const opened = await bench.open(counted, { spares: 1 });
    counting.set("logged-out");
    await expect(sign(opened)).rejects.toMatchObject({ code: "ERR_SHIM_REFUSED", rv: 0x101n });
    await expect(sign(opened)).rejects.toMatchObject({ code: "ERR_SHIM_REFUSED", rv: 0x101n });
    await expect(sign(opened)).rejects.toMatchObject({ code: "ERR_TOKEN_STOPPED" });
    expect(opened.ends).toMatchObject([
      { kind: "lost", reasons: [{ code: "login-lost", got: "login lost: CKR 0x101" }] },
    ]);
    expect(opened.stopped).toEqual([0, 1]);
  });

  test("I5: an HSM that is gone without a word about its login ends the token after one failed operation: no shim sees its keys", async () => {
    const opened = await bench.open(counted, { spares: 1 });
    counting.set("gone");
    await expect(sign(opened)).rejects.toMatchObject({ code: "ERR_SHIM_REFUSED", rv: 0x30n });
    await expect.poll(() => opened.ends).toHaveLength(1);
    expect(opened.ends).toMatchObject([
      { kind: "lost", reasons: [{ code: "login-lost", got: "login lost: the token shows no keys, CKR 0x30" }] },
    ]);
    await expect(sign(opened)).rejects.toMatchObject({ code: "ERR_TOKEN_STOPPED" });
  });

  test("I10: operations that fail while the token shows its keys end nothing, however many there are", async () => {
    const opened = await bench.open(counted, { spares: 1 });
    counting.set("fails");
    for (let at = 0; at < 20; at++) await expect(sign(opened)).rejects.toMatchObject({ rv: 0x30n });
    await Promise.all(opened.shims.map((shim) => shim.status())); // behind whatever was asked of them
    counting.unset("fails");
    expect(isGood(await sign(opened))).toBe(true);
    expect(opened.domain.shims.map(({ role }) => role)).toEqual(["active", "spare"]);
  });

  test("I5: SoftHSM's signatures go on with the spare as well, with the handles of its own session", async () => {
    const opened = await bench.open(openSoftHsm(), { spares: 1 });
    for (const key of ["ec", "ec"]) {
      expect(await sign(opened, key)).toHaveLength(64);
      opened.processes[0]?.kill("SIGKILL");
      await opened.shims[0]?.closed;
    }
    expect(await made(opened, 1)).toBe(1);
  });

  test("I10: 256 requests may wait for it and no more, and a place is given back once", async () => {
    const opened = await bench.open(counted);
    const places = Array.from({ length: MAX_WAITING }, () => opened.domain.reserve());
    expect([MAX_WAITING, places.includes(null), opened.domain.reserve()]).toEqual([256, false, null]);
    for (let times = 0; times < 2; times++) places[0]?.[Symbol.dispose]();
    expect([opened.domain.reserve() === null, opened.domain.reserve()]).toEqual([false, null]);
  });

  test("I10: a refusal that is not about the login ends nothing", async () => {
    const opened = await bench.open(counted, { spares: 1 });
    const wrong = opened.domain.use("release-ec", (shim, place) =>
      shim.sign({ ...place, mechanism: 0x1n, pss: null, data: sha256(MESSAGE) }),
    );
    await expect(wrong).rejects.toMatchObject({ code: "ERR_SHIM_REFUSED" });
    await expect(sign(opened, "no such key")).rejects.toMatchObject({ code: "ERR_KEY_GONE" });
    expect(isGood(await sign(opened))).toBe(true);
    expect(opened.domain.shims.map(({ role }) => role)).toEqual(["active", "spare"]);
  });
});

describe("a library that attacks", () => {
  test("I5: under `kill` gets no signature out after its attempt, and all shims of its token end", async () => {
    const opened = await bench.open(attacker, { spares: 1 });
    expect(await attack(opened, "-")).toBe(0);
    await expect(attack(opened, "f")).rejects.toMatchObject({ code: "ERR_TOKEN_STOPPED" });
    await expect(attack(opened, "-")).rejects.toMatchObject({ code: "ERR_TOKEN_STOPPED" });
    await opened.domain.settled();
    expect(reasonsOf(opened)).toEqual(["violation sandbox-violation"]);
    expect(opened.stopped).toEqual([0, 1]);
    for (const child of opened.processes) await endOf(child);
    const [incident] = bench.recorded();
    const first = { what: "syscall", token: "signing", shim: 0, syscall: "socket", nr: SOCKET, count: 1 };
    expect(incident).toMatchObject({ ...first, args: [2n, 1n, 0n, ...Array(3).fill(expect.any(BigInt))] });
    expect((await eventsOf())[0]).toBe("violation signing/0 socket");
    expect(bench.audited()[0]).toMatchObject({ operation: "shim", scope: "signing", decision: "deny" });
    expect(Object.keys(opened.attempts())).toEqual([`${SOCKET}`]);
  });

  test("I5: under `kill` gets none out either when its answer is here before the news of the attempt", async () => {
    const opened = await bench.open(attacker, { spares: 1 });
    opened.deafen();
    await expect(attack(opened, "f")).rejects.toMatchObject({ code: "ERR_TOKEN_STOPPED" });
    expect(opened.attempts()).toEqual({ [SOCKET]: 500 });
    expect(opened.stopped).toEqual([0, 1]);
  });

  test("I5: under `kill` is stopped for an attempt that it made between two requests", async () => {
    const opened = await bench.open(attacker);
    // The first answer is in before the flood is over: nobody waits for one.
    void attack(opened, "f").catch(() => undefined);
    await expect.poll(() => opened.ends.length).toBe(1);
    expect(opened.stopped).toEqual([0]);
  });

  test("I8: under `report` a signature that came after an attempt is released once the attempt is in the agent PCR", async () => {
    const opened = await bench.open(attacker, { onViolation: "report" });
    const gate = Promise.withResolvers<void>();
    slowExtend = () => gate.promise;
    let released = false;
    const signing = attack(opened, "w").finally(() => {
      released = true;
    });
    await signing; // a denied open is no watched call: nothing to wait for
    expect(released).toBe(true);
    released = false;
    const later = attack(opened, "f").finally(() => {
      released = true;
    });
    await expect.poll(() => opened.attempts()[SOCKET] ?? 0).toBe(500);
    for (let at = 0; at < 50; at++) await turn();
    expect(released).toBe(false);
    gate.resolve();
    expect(await later).toBe(EPERM);
    expect((await eventsOf()).length).toBe(ROOM.syscall);
    expect(opened.ends).toEqual([]);
  });

  test("I5 I8: a flood of 100,000 attempts is counted in full and recorded in part, and another token goes on signing", {
    timeout: 120_000,
  }, async () => {
    const [flooding, signing] = [
      await bench.open(attacker, { onViolation: "report", name: "hostile", timeoutMs: 60_000 }),
      await bench.open(counted, { name: "signing" }),
    ];
    let flooded = false;
    const flood = (async () => {
      for (let round = 0; round < 200; round++) await attack(flooding, "f");
      flooded = true;
    })();
    let meanwhile = 0;
    while (!flooded) if (isGood(await sign(signing))) meanwhile += 1;
    await flood;
    expect(flooding.attempts()).toEqual({ [SOCKET]: 100_000 });
    expect(meanwhile).toBeGreaterThan(100);
    const events = await eventsOf();
    expect(new Set(events)).toEqual(new Set(["violation hostile/0 socket"]));
    expect(events.length).toBe(ROOM.syscall);
    expect(bench.recorded()).toHaveLength(events.length);
    expect(bench.audited()).toHaveLength(events.length);
    expect([flooding.ends, signing.ends]).toEqual([[], []]);
  });

  test("I5: of two tokens only the one whose library attacks is stopped", async () => {
    const [hostile, signing] = [await bench.open(attacker, { name: "hostile" }), await bench.open(counted)];
    await expect(attack(hostile, "f")).rejects.toMatchObject({ code: "ERR_TOKEN_STOPPED" });
    expect(isGood(await sign(signing))).toBe(true);
    await hostile.domain.settled();
    expect([hostile.ends.length, signing.ends.length]).toEqual([1, 0]);
  });

  test("I8: when the agent PCR does not take an incident, nothing is served from that token any more", async () => {
    const opened = await bench.open(attacker, { onViolation: "report" });
    slowExtend = () => Promise.reject(new Error("no TPM"));
    await expect(attack(opened, "f")).rejects.toMatchObject({ code: "ERR_TOKEN_STOPPED" });
    expect(reasonsOf(opened)).toEqual(["failed incident-not-measured"]);
  });
});

describe("what the real parts do too seldom", () => {
  test("I5: a shim whose attempts nobody receives any more is not served on, whatever policy says of violations", async () => {
    const opened = await bench.open(counted, { onViolation: "report", spares: 1 });
    for (const { watch } of opened.shims) Object.assign(watch, { blind: () => true });
    await expect(sign(opened)).rejects.toMatchObject({ code: "ERR_TOKEN_STOPPED" });
    await opened.domain.settled();
    expect(opened.ends).toMatchObject([{ kind: "failed", reasons: [{ code: "notifier-blind", item: "signing" }] }]);
    expect(opened.stopped).toEqual([0, 1]);
  });

  test("I11: a spare that ends between the last look at its takeover and the takeover's end is replaced as well", async () => {
    const { domain, ended, serving } = openFakes(3, (from) => (from === 0 ? 1 : null));
    ended(0);
    await turn();
    expect(domain.end).toBeNull();
    expect(domain.shims.map(({ role }) => role)).toEqual(["ended", "ended", "active"]);
    expect(await domain.use("key", async (shim) => serving(shim))).toBe(2);
    domain.close();
  });
});

/**
 * Shims of which only the end is made: a domain whose record of a takeover lets another shim end in the very turn in which it is done.
 * @param endsWith the shim that ends together with the record of this one's replacement
 */
function openFakes(count: number, endsWith: (from: number) => number | null) {
  const ends = Array.from({ length: count }, () => Promise.withResolvers<AgentError>());
  const ended = (id: number) => ends[id]?.resolve(new AgentError("ERR_SHIM_GONE", "ended"));
  const watch = { total: () => 0, blind: () => false, recorded: () => [] };
  const fakes = ends.map(({ promise }) => ({ watch, closed: promise, close: () => undefined }) as unknown as Shim);
  const shims = fakes.map((shim, id) => ({
    ...{ id, shim, serves: id === 0, probed: { total: 0, counts: {} } },
    places: new Map([["key", { slotId: 0n, handle: 1n }]]),
  }));
  const replaced: IncidentLog["replaced"] = ({ from }, settle) => {
    settle();
    const done = Promise.resolve();
    const other = endsWith(from);
    if (other !== null) void done.then(() => ended(other));
    return done;
  };
  const domain = new TrustDomain({
    ...{ token: "signing", shims, onViolation: "kill" as const, incidents: { replaced } as IncidentLog },
    stopShim: async () => undefined,
    onEnd: async () => undefined,
  });
  return { domain, ended, serving: (shim: Shim) => fakes.indexOf(shim) };
}
