import { readFileSync, realpathSync } from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { SHIM_PATH } from "../../agent/launch/files.ts";
import { Domains } from "../../agent/shims/domains.ts";
import { IncidentLog } from "../../agent/shims/incidents.ts";
import { measureClosure, modulePolicy } from "../../attest/index.ts";
import { encodeBundle, parseBundle, sha256, sha256Hex, utf8 } from "../../policy/index.ts";
import { type CountingToken, makeCountingToken } from "../support/counting-token.ts";
import { asked, type LaunchChecks, openLaunchChecks, reasonsOf } from "../support/launch-checks.ts";
import { BENCH_MODULE, changeModule } from "../support/launch-documents.ts";
import { eventsOf, type LaunchBench, type PolicyDraft, type Provisioned } from "../support/launch-fixture.ts";
import { openReporter } from "../support/reporter.ts";
import { SECOND_PIN } from "../support/second-token.ts";
import { TPM_CC } from "../support/tpm-bus.ts";

const OTHER = "counting";

let checks: LaunchChecks;
let bench: LaunchBench;
let counter: CountingToken;
let machine: Provisioned;
beforeAll(async () => {
  checks = await openLaunchChecks();
  ({ bench } = checks);
  const own = { directory: join(bench.token.directory, "counting"), serial: "C0UNT1NG0002", label: OTHER };
  counter = makeCountingToken(bench, { pin: SECOND_PIN, ...own });
  machine = await provision();
});
afterAll(() => bench[Symbol.asyncDispose]());
afterEach(() => {
  counter.unset("attacks");
  counter.unset("flags");
});

/** The bench's SoftHSM with a spare, and the token that counts through another library, without one. */
async function provision(): Promise<Provisioned> {
  const pin = {
    label: { name: "second-pin", kind: "pin", tokenSerial: counter.serial } as const,
    secret: utf8(SECOND_PIN),
  };
  const provisioned = await bench.provision({ policy: withOther, credentials: [pin] });
  const files = parseBundle(provisioned.slots.get("module") ?? new Uint8Array());
  const library: [string, Uint8Array] = [counter.library, new Uint8Array(readFileSync(counter.library))];
  const module = encodeBundle([library, ...files.map(({ path, bytes }) => [path, bytes] as const)]);
  return { ...provisioned, slots: new Map([...provisioned.slots, ["module", module]]) };
}

function withOther(draft: PolicyDraft): void {
  const pin = measureClosure({
    entry: counter.library,
    executable: SHIM_PATH,
    readFile: (path) => readIfThere(path === SHIM_PATH ? join(bench.programs, "shim") : path),
    realPath: (path) => (path === SHIM_PATH ? path : realpathSync(path)),
  });
  const { [SHIM_PATH]: _shim, ...closure } = pin.closure;
  const first = draft.modules[BENCH_MODULE];
  if (first === undefined) throw new Error("the bench's module");
  const library = modulePolicy({ ...pin, closure }, {}, counter.environment);
  changeModule(draft, { spares: 1 });
  draft.modules = { ...draft.modules, [OTHER]: { ...first, ...library, spares: 0 } };
  const { label, serial } = counter;
  draft.tokens = { ...draft.tokens, [OTHER]: { module: OTHER, label, serial, pin: "second-pin" } };
  const own = Object.entries(draft.keys).map(([name, key]) => [name, { ...key, token: bench.token.label }] as const);
  const counted = { spki: `sha256:${sha256Hex(counter.spki)}`, does: "sign", token: OTHER } as const;
  draft.keys = { ...Object.fromEntries(own), counted };
}

function readIfThere(path: string): Uint8Array | null {
  try {
    return new Uint8Array(readFileSync(path));
  } catch {
    return null;
  }
}

describe("two modules with a token each", () => {
  test("I1 I2: are prepared, measured and served side by side, each library in shims of its own", async () => {
    await using booted = await checks.boot({}, machine);
    expect(reasonsOf(booted)).toEqual([]);
    expect(booted.record.state.kind).toBe("serving");
    const events = await booted.log.locked(async (records) => eventsOf(records));
    expect(events.slice(0, machine.events.length)).toEqual(machine.events);
    expect(events.filter(({ kind }) => kind === "library").map(({ name }) => name)).toEqual([
      bench.token.library,
      counter.library,
    ]);
    expect(events.slice(machine.events.length).map(({ kind, name }) => `${kind} ${name}`)).toEqual([
      ...["token counting", "token launch-bench"],
      ...["key counted", "key document-rsa", "key release-ec", "cap serving"],
    ]);
    // Tokens by name: the shim of `counting`, then those of `launch-bench`. Each PIN is unsealed once.
    expect(booted.record.shims.map(({ id, token }) => `${id} ${token}`)).toEqual([
      "0 counting",
      "1 launch-bench",
      "2 launch-bench",
    ]);
    expect(asked(booted, TPM_CC.unseal)).toBe(2);
    expect(booted.channelLeft()).toEqual(new Uint8Array());
    await checks.expectClosed(machine);
  });

  test("I11: are both left alone while one token cannot be used", async () => {
    counter.set("flags", "0x100");
    await using booted = await checks.boot({}, machine);
    expect(reasonsOf(booted).map(({ code, item }) => `${code} ${item}`)).toEqual(["token-pin-pad counting"]);
    expect([asked(booted, TPM_CC.unseal), booted.calls.some((call) => call.startsWith("login"))]).toEqual([0, false]);
    await checks.expectRefused(booted, machine);
  });

  test("I5: of which one attacks, that one's token is stopped, and the other's keys sign on", async () => {
    await using booted = await checks.boot({}, machine);
    const { launched, record, log, spawner } = booted;
    if (launched === null) throw new Error("launched");
    const { audit } = (await openReporter(bench, booted)).sources;
    const domains = new Domains({
      ...{ tokens: launched.tokens, onViolation: "kill", onLoginLost: "stop", store: null },
      keys: new Map(launched.keys.map(({ name, token }) => [name, token])),
      incidents: new IncidentLog({ log, audit, record }),
      stopShim: (id) => spawner.stopShim(id),
      capAndReboot: (reason) => spawner.capAndReboot(reason),
      onReasons: async () => undefined,
      onStopped: async () => undefined,
    });
    launched.bell.ring = () => domains.checkAttempts();
    const request = { mechanism: 0x1041n, pss: null, data: sha256(utf8("a message")) };
    const sign = (key: string) => domains.use(key, (shim, place) => shim.sign({ ...place, ...request }));
    expect(await sign("counted")).toHaveLength(64);
    counter.set("attacks", "sign");
    await expect(sign("counted")).rejects.toMatchObject({ code: "ERR_TOKEN_STOPPED" });
    expect(await sign("release-ec")).toHaveLength(64);
    await domains.settled();
    expect(domains.status.map(({ name, served }) => `${name} ${served}`)).toEqual([
      "counting false",
      "launch-bench true",
    ]);
    domains.close();
  });
});
