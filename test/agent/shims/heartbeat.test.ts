import { once } from "node:events";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { makeCountingToken } from "../../support/counting-token.ts";
import { type DomainBench, type DomainToken, openDomainBench } from "../../support/domain-fixture.ts";
import { TEST_PIN, writeHostProfile } from "../../support/shim-fixture.ts";

const HEARTBEAT = 15_000;

let bench: DomainBench;
let token: DomainToken;
beforeEach(async () => {
  bench = await openDomainBench();
  const { environment, directory, library } = makeCountingToken(bench.bench, { pin: TEST_PIN });
  const profile = writeHostProfile(bench.bench, { environment, tokens: directory });
  token = { library, environment, profile, pin: TEST_PIN };
  vi.useFakeTimers({ toFake: ["setInterval", "clearInterval"] });
});
afterEach(async () => {
  vi.useRealTimers();
  await bench.close();
});

test("I5: a shim that hangs while nobody asks for anything is found, ended and replaced", async () => {
  const { domain, processes } = await bench.open(token, { spares: 1, timeoutMs: 300 });
  const ended = once(processes[0] ?? process, "exit");
  processes[0]?.kill("SIGSTOP");
  vi.advanceTimersByTime(HEARTBEAT);
  expect(await ended).toEqual([null, "SIGKILL"]);
  await domain.settled();
  expect(domain.shims.map(({ role }) => role)).toEqual(["ended", "active"]);
  domain.close();
});

test("I5: a spare that hangs is found before it is needed, and the one that serves is left alone", async () => {
  const { domain, processes, shims } = await bench.open(token, { spares: 1, timeoutMs: 300 });
  const ended = once(processes[1] ?? process, "exit");
  processes[1]?.kill("SIGSTOP");
  vi.advanceTimersByTime(HEARTBEAT);
  await ended;
  expect(domain.shims.map(({ role }) => role)).toEqual(["active", "ended"]);
  expect(await shims[0]?.status()).toBe(0n);
  expect(bench.recorded()).toEqual([]);
  domain.close();
});
