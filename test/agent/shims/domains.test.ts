import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { Domains, type DomainsOptions } from "../../../agent/shims/domains.ts";
import { recoveriesOf } from "../../../agent/shims/recovery.ts";
import type { Reason } from "../../../attest/index.ts";
import { sha256, utf8 } from "../../../policy/index.ts";
import { memoryMedium, Store } from "../../../seal/index.ts";
import { makeCountingToken } from "../../support/counting-token.ts";
import {
  type DomainBench,
  type DomainToken,
  type OpenedMember,
  openDomainBench,
} from "../../support/domain-fixture.ts";
import { buildHostile, TEST_PIN, writeHostProfile } from "../../support/shim-fixture.ts";

const KEYS = new Map([
  ["release-ec", "signing"],
  ["7", "hostile"],
]);

let bench: DomainBench;
let counted: DomainToken;
let attacker: DomainToken;
let counting: ReturnType<typeof makeCountingToken>;
beforeEach(async () => {
  bench = await openDomainBench();
  counting = makeCountingToken(bench.bench, { pin: TEST_PIN });
  const { environment, directory, library } = counting;
  const profile = writeHostProfile(bench.bench, { environment, tokens: directory });
  counted = { library, environment, profile, pin: TEST_PIN };
  attacker = { library: buildHostile(bench.bench, "attacker", "module"), environment: {}, profile, pin: "x" };
});
const opened: Domains[] = [];
afterEach(async () => {
  for (const domains of opened.splice(0)) domains.close();
  await bench.close();
});

interface TwoTokens {
  readonly domains: Domains;
  readonly rebooted: readonly string[];
  readonly stopped: readonly (readonly Reason[])[];
  /** Told after that. */
  readonly added: readonly Reason[];
  readonly store: Store;
  readonly members: { readonly signing: readonly OpenedMember[]; readonly hostile: readonly OpenedMember[] };
}

/** The token `signing` with a spare, and `hostile` without one. */
async function openTwo(changes: Partial<DomainsOptions> = {}): Promise<TwoTokens> {
  const signing = await bench.members(counted, { spares: 1 });
  const hostile = await bench.members(attacker, { firstId: 2 });
  const { store } = Store.open(memoryMedium());
  const rebooted: string[] = [];
  const stopped: (readonly Reason[])[] = [];
  const added: Reason[] = [];
  const domains = new Domains({
    tokens: [
      { name: "hostile", shims: hostile },
      { name: "signing", shims: signing },
    ],
    ...{
      keys: KEYS,
      onViolation: "kill",
      onLoginLost: "reboot",
      incidents: bench.incidents,
      stopShim: bench.kill,
      store,
    },
    capAndReboot: async (reason) => void rebooted.push(reason),
    onReasons: async (reasons) => void added.push(...reasons),
    onStopped: async (reasons) => void stopped.push(reasons),
    ...changes,
  });
  opened.push(domains);
  for (const member of [...signing, ...hostile]) member.onAttempt = () => domains.checkAttempts();
  return { domains, rebooted, stopped, added, store: changes.store ?? store, members: { signing, hostile } };
}

const sign = ({ domains }: TwoTokens, key: "release-ec" | "7", text = "-") =>
  domains.use(key, (shim, place) =>
    shim.sign({ ...place, mechanism: 0x1041n, pss: null, data: key === "7" ? utf8(text) : sha256(utf8(text)) }),
  );
const codes = (reasons: readonly Reason[] = []) => reasons.map(({ code, item }) => `${code} ${item}`);

describe("two tokens", () => {
  test("I5: each in shims of its own: a violation stops one, the other signs on, and the machine still serves", async () => {
    const two = await openTwo();
    await expect(sign(two, "7", "f")).rejects.toMatchObject({ code: "ERR_TOKEN_STOPPED" });
    expect(await sign(two, "release-ec")).toHaveLength(64);
    expect(two.domains.status).toMatchObject([
      { name: "hostile", served: false, shims: [{ id: 2, role: "ended" }], reasons: [{ code: "sandbox-violation" }] },
      {
        name: "signing",
        served: true,
        shims: [
          { id: 0, role: "active" },
          { id: 1, role: "spare" },
        ],
        reasons: [],
      },
    ]);
    expect(two.domains.shims.map(({ id, token }) => `${id} ${token}`)).toEqual(["0 signing", "1 signing", "2 hostile"]);
    expect(two.stopped).toEqual([]);
  });

  test("I5: the machine stops with the last token, with the reasons of all", async () => {
    const two = await openTwo({ onLoginLost: "stop" });
    await expect(sign(two, "7", "f")).rejects.toMatchObject({ code: "ERR_TOKEN_STOPPED" });
    counting.set("logged-out");
    for (let at = 0; at < 2; at++) await expect(sign(two, "release-ec")).rejects.toMatchObject({ rv: 0x101n });
    await expect.poll(() => two.stopped.length).toBe(1);
    expect(codes(two.stopped[0])).toEqual(["sandbox-violation hostile", "login-lost signing"]);
    expect(two.rebooted).toEqual([]);
  });

  test("I5: under `kill` a device that comes stops every token, one that goes is only measured", async () => {
    const two = await openTwo();
    two.domains.devicesChanged([{ device: "1af4:1042", change: "removed" }]);
    expect(await sign(two, "release-ec")).toHaveLength(64);
    two.domains.devicesChanged([{ device: "usb:08e6:4433", change: "added" }]);
    await expect(sign(two, "release-ec")).rejects.toMatchObject({ code: "ERR_TOKEN_STOPPED" });
    await expect.poll(() => two.stopped.length).toBe(1);
    expect(codes(two.stopped[0])).toEqual(["device-foreign usb:08e6:4433", "device-foreign usb:08e6:4433"]);
    const events = (await bench.measured()).map(({ event }) => `${event.kind} ${event.name}`);
    expect(events).toEqual(["violation device 1af4:1042", "violation device usb:08e6:4433"]);
  });

  test("I5: under `report` a device that comes is measured, and the machine serves on", async () => {
    const two = await openTwo({ onViolation: "report" });
    two.domains.devicesChanged([{ device: "usb:08e6:4433", change: "added" }]);
    expect(await sign(two, "release-ec")).toHaveLength(64);
    expect((await bench.measured()).map(({ event }) => event.name)).toEqual(["device usb:08e6:4433"]);
  });
});

describe("devices that nobody can list any more", () => {
  test("I5: under `kill` stop every token, with a reason and a record of their own", async () => {
    const two = await openTwo();
    two.domains.devicesUnreadable("EIO: i/o error");
    await expect(sign(two, "release-ec")).rejects.toMatchObject({ code: "ERR_TOKEN_STOPPED" });
    await expect.poll(() => two.stopped.length).toBe(1);
    expect(codes(two.stopped[0])).toEqual(["devices-unreadable devices", "devices-unreadable devices"]);
    expect(bench.audited()).toMatchObject([
      {
        operation: "shim",
        scope: "devices",
        decision: "deny",
        reason: "violation: devices unreadable: EIO: i/o error",
      },
    ]);
    expect(await bench.measured()).toEqual([]); // an event names a device, and none is known
  });

  test("I5: under `report` are said, once a boot, and the machine serves on", async () => {
    const two = await openTwo({ onViolation: "report" });
    expect(two.domains.warnings).toEqual([]);
    for (const why of ["EIO", "EACCES"]) two.domains.devicesUnreadable(why);
    expect(await sign(two, "release-ec")).toHaveLength(64);
    expect(two.domains.warnings).toMatchObject([{ code: "devices-unreadable", got: "EIO" }]);
    expect(bench.audited()).toHaveLength(1);
  });
});

describe("a lost login", () => {
  const loseSigning = async (two: TwoTokens) => {
    counting.set("logged-out");
    for (let at = 0; at < 2; at++) await expect(sign(two, "release-ec")).rejects.toMatchObject({ rv: 0x101n });
    await expect(sign(two, "release-ec")).rejects.toMatchObject({ code: "ERR_TOKEN_STOPPED" });
  };

  test("I11: is counted in the store, then the machine is capped and rebooted", async () => {
    const two = await openTwo();
    await loseSigning(two);
    await expect.poll(() => two.rebooted).toEqual(["login lost: token signing"]);
    expect(recoveriesOf(two.store)).toBe(1);
  });

  test("I11: leads to a reboot also when a device went before: it may have been the HSM", async () => {
    const two = await openTwo();
    two.domains.devicesChanged([{ device: "usb:08e6:4433", change: "removed" }]);
    await loseSigning(two);
    await expect.poll(() => two.rebooted).toEqual(["login lost: token signing"]);
  });

  test("I11: for the sixth time in a row leads to no reboot; the token is stopped, with that reason", async () => {
    const { store } = Store.open(memoryMedium());
    store.write({ ...store.content, recoveries: 5 });
    const two = await openTwo({ store });
    await loseSigning(two);
    await expect(sign(two, "7", "f")).rejects.toMatchObject({ code: "ERR_TOKEN_STOPPED" });
    await expect.poll(() => two.stopped.length).toBe(1);
    expect(codes(two.stopped[0])).toContain("recovery-limit reboot after a lost login");
    expect([two.rebooted, recoveriesOf(store)]).toEqual([[], 5]);
    const { reasons } = two.domains.status.find(({ name }) => name === "signing") ?? {};
    expect(codes(reasons)).toEqual(["login-lost signing", "recovery-limit reboot after a lost login"]);
  });

  test("I11: for the third time waits a minute before it reboots, and the other token serves meanwhile", async () => {
    const { store } = Store.open(memoryMedium());
    store.write({ ...store.content, recoveries: 2 });
    const two = await openTwo({ store });
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    try {
      await loseSigning(two);
      expect(await sign(two, "7")).toHaveLength(1);
      expect([two.rebooted, recoveriesOf(store)]).toEqual([[], 3]);
      await vi.advanceTimersByTimeAsync(60_000);
      expect(two.rebooted).toEqual(["login lost: token signing"]);
    } finally {
      vi.useRealTimers();
    }
  });

  test("I5: leads to no reboot when a violation comes while it is waited for: the log of this boot is kept", async () => {
    const { store } = Store.open(memoryMedium());
    store.write({ ...store.content, recoveries: 2 });
    const two = await openTwo({ store });
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    try {
      await loseSigning(two);
      await expect(sign(two, "7", "f")).rejects.toMatchObject({ code: "ERR_TOKEN_STOPPED" });
      await two.domains.settled();
      await vi.advanceTimersByTimeAsync(60_000);
    } finally {
      vi.useRealTimers();
    }
    expect(two.rebooted).toEqual([]);
    expect(codes(two.stopped[0])).toEqual(["login-lost signing", "sandbox-violation hostile"]);
    expect(codes(two.added)).toEqual(["recovery-withheld reboot after a lost login"]);
    const { reasons } = two.domains.status.find(({ name }) => name === "signing") ?? {};
    expect(codes(reasons)).toContain("recovery-withheld reboot after a lost login");
  });
});
