import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, it } from "vitest";
import type { FileAuditLog } from "../../agent/audit/log.ts";
import { openAudit } from "../../agent/audit/open.ts";
import { wallClockOf } from "../../agent/audit/wall-clock.ts";
import {
  type ApprovalGate,
  type ApprovalRequest,
  LivePolicy,
  type Meter,
  type Token,
} from "../../agent/broker/index.ts";
import { parsePolicy, sha256Hex } from "../../policy/index.ts";
import { type BrokerFixture, type BrokerFixtureOptions, softwareKeys, startBroker } from "../support/broker-fixture.ts";
import { DIGEST, ECDSA, openClient, openSession, PRIVATE, plain, sign, signInit } from "../support/broker-session.ts";
import { documentBytes, type PolicyDocument, policyDocument } from "../support/policy-document.ts";
import { byteArray, INITIALIZE_VALUES, type RawClient, u32, ulongs } from "../support/rpc-client.ts";

const REJECTED = 0x200n;
const NO_SESSION = 0xb3n;
const DEVICE_MEMORY = 0x31n;

let broker: BrokerFixture;
afterEach(() => broker.close());

/** A broker whose signing scope has these fields besides. */
async function start(fields: Record<string, unknown>, options: BrokerFixtureOptions = {}): Promise<void> {
  const change = (document: PolicyDocument) => {
    Object.assign(document.scopes[0] ?? {}, fields);
    options.change?.(document);
  };
  broker = await startBroker({ ...options, change });
}

/** A log of its own, so that the disk and the clock are the test's. */
async function withLog(
  options: Partial<Parameters<typeof openAudit>[0]>,
  use: (log: FileAuditLog, reopen: () => FileAuditLog) => Promise<void>,
): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), "broker-log-"));
  const open = () => openAudit({ directory: join(directory, "log"), now: Date.now, anchor: null, ...options });
  try {
    await use(open(), open);
  } finally {
    rmSync(directory, { recursive: true });
  }
}

/** The rv of a signature by both calls. */
async function signOnce(client: RawClient, data = DIGEST): Promise<bigint> {
  const init = await signInit(client);
  return init.rv === 0n ? (await sign(client, data)).rv : init.rv;
}

const steps = () => broker.records().flatMap(({ step }) => step ?? []);

describe("limits", () => {
  it("I6: a scope of two keys shows both, with objects that count on, and signs with each by its own mechanism", async () => {
    const mechanisms = [{ type: "CKM_ECDSA", digest: "sha256" }, { type: "CKM_SHA256_RSA_PKCS" }];
    await start({ key: undefined, keys: ["release-ec", "release-rsa"], mechanisms });
    const client = await openSession(broker);
    await client.call("C_FindObjectsInit", ulongs(1n), u32(0));
    const found = await client.call("C_FindObjects", ulongs(1n), u32(10));
    expect(found.values.slice(5)).toEqual(ulongs(1n, 2n, 3n, 4n));
    expect(await signOnce(client)).toBe(0n);
    expect((await signInit(client, plain(0, 0x40), 3n)).rv).toBe(0n);
    expect((await sign(client)).rv).toBe(0n);
    expect((await signInit(client, plain(0, 0x40), PRIVATE)).rv).toBe(0x70n);
    expect((await signInit(client, ECDSA, 3n)).rv).toBe(0x70n);
    expect((await signInit(client, ECDSA, 5n)).rv).toBe(0x60n);
    expect(broker.requests.map(({ key }) => key)).toEqual(["release-ec", "release-rsa"]);
    expect(steps()).toEqual(["mechanism", "mechanism", "key"]);
  });

  it("I6: the key's rate holds over all its scopes, the scope's budget over all its connections", async () => {
    await start(
      { budget: { operations: 3 } },
      {
        change: ({ keys, scopes }) => {
          Object.assign(keys["release-ec"] as object, { rate: { perMinute: 1, burst: 2 } });
          scopes.push({ ...scopes[0], name: "second", budget: undefined, rate: undefined });
        },
      },
    );
    const [first, second] = [await openSession(broker), await openSession(broker, "second")];
    expect([await signOnce(first), await signOnce(second), await signOnce(first)]).toEqual([0n, 0n, REJECTED]);
    broker.time += 120_000;
    const third = await openSession(broker);
    expect([await signOnce(third), await signOnce(third)]).toEqual([0n, 0n]);
    broker.time += 120_000;
    expect([await signOnce(first), await signOnce(second)]).toEqual([REJECTED, 0n]);
    expect(steps()).toEqual(["rate", "budget"]);
  });

  it("I6: a session ends with its lifetime, or idle, for good and by itself; a new one may be opened", async () => {
    await start({ lifetime: "PT30M", idle: "PT1M" });
    const client = await openSession(broker);
    for (let minutes = 0; minutes < 9; minutes += 1) {
      broker.time += 59_000;
      expect(await signOnce(client)).toBe(0n);
    }
    expect((await signInit(client)).rv).toBe(0n);
    broker.time += 69_000;
    expect((await sign(client)).rv).toBe(NO_SESSION);
    broker.time -= 69_000;
    expect((await sign(client)).rv).toBe(NO_SESSION);
    await client.call("C_OpenSession", ulongs(1n, 4n));
    expect((await client.call("C_SignInit", ulongs(2n), ECDSA, ulongs(PRIVATE))).rv).toBe(0n);
    broker.time += 1_800_000;
    expect((await client.call("C_Sign", ulongs(2n), byteArray(DIGEST), u32(512))).rv).toBe(NO_SESSION);
    expect(broker.records().filter(({ operation }) => operation === "session")).toMatchObject([
      { decision: "deny", step: "session", reason: "idle for PT1M" },
      { decision: "deny", step: "session", reason: "lifetime PT30M is over" },
    ]);
  });

  it("I6: no more operations are under way than the scope may have; the next is busy, and recorded as that", async () => {
    const held = Promise.withResolvers<void>();
    const token: Partial<Token> = { sign: () => held.promise.then(() => new Uint8Array(64)) };
    await start({ inFlight: 2 }, { token });
    const clients = [await openSession(broker), await openSession(broker), await openSession(broker)];
    for (const client of clients) await signInit(client);
    const [one, two] = clients.slice(0, 2).map((client) => sign(client));
    await expect.poll(() => broker.requests.length).toBe(2);
    expect((await sign(clients[2] ?? (await openClient(broker)))).rv).toBe(DEVICE_MEMORY);
    held.resolve();
    expect([(await one)?.rv, (await two)?.rv]).toEqual([0n, 0n]);
    expect(await signOnce(clients[2] ?? (await openClient(broker)))).toBe(0n);
    expect(steps()).toEqual(["busy"]);
  });

  it("I6: two scopes whose names begin alike are two libraries to clients that remember them by their description", async () => {
    const long = (end: string) => `${"release-signing-of-the-build".padEnd(47, "-")}${end}`;
    await start(
      {},
      { change: ({ scopes }) => scopes.push(...["a", "b"].map((end) => ({ ...scopes[0], name: long(end) }))) },
    );
    const described = async (scope: string) => {
      const { values } = await (await openSession(broker, scope)).call("C_GetInfo");
      return Buffer.from(values).toString("latin1");
    };
    const [one, two, short] = [await described(long("a")), await described(long("b")), await described("rsa-signing")];
    expect(one).not.toBe(two);
    expect(one).toContain("scope release-signing-o~");
    expect(short).toContain("scope rsa-signing ");
  });

  it("I6: no more connections are open than the scope may have, and one that ends makes room", async () => {
    await start({ connections: 2 });
    const first = await openSession(broker);
    const second = await openSession(broker);
    await expect(openSession(broker)).rejects.toThrow("closed");
    expect([await signOnce(first), await signOnce(second)]).toEqual([0n, 0n]);
    second.end();
    await second.closed();
    const another = () =>
      openSession(broker).then(
        (client) => signOnce(client),
        () => null,
      );
    await expect.poll(another).toBe(0n);
  });

  it("I8: in a durable scope the token is asked once the record is on the disk, and not before", async () => {
    const synced = Promise.withResolvers<void>();
    let syncs = 0;
    const sync = () => {
      syncs += 1;
      return synced.promise;
    };
    await withLog({ files: { sync } }, async (log) => {
      await start({ audit: "durable" }, { audit: log });
      const client = await openSession(broker);
      await signInit(client);
      const answer = sign(client);
      await expect.poll(() => syncs).toBe(1);
      expect([log.head().seq, broker.requests.length]).toEqual([1, 0]);
      synced.resolve();
      expect((await answer).rv).toBe(0n);
      expect([log.durableHead().seq, broker.requests.length]).toEqual([1, 1]);
    });
  });

  it("I6 I8: a clock that is set back behind the log's records opens no scope again whose time is over, nor after a restart", async () => {
    const valid = { from: "2026-11-26T12:00:00Z", until: "2026-11-26T13:00:00Z" };
    let machine = Date.parse("2026-11-26T12:30:00Z");
    const clock = () => machine;
    await withLog({ now: clock }, async (log, reopen) => {
      await start({ valid }, { audit: log, parts: { wallClock: wallClockOf(log, clock) } });
      const client = await openSession(broker);
      expect(await signOnce(client)).toBe(0n);
      machine = Date.parse("2026-11-26T13:00:00Z");
      expect(await signOnce(client)).toBe(REJECTED);
      machine = Date.parse("2026-11-26T12:30:00Z");
      expect(await signOnce(client)).toBe(REJECTED);
      await broker.close();
      const again = reopen();
      expect(again.latest()).toBe(Date.parse("2026-11-26T13:00:00Z"));
      await start({ valid }, { audit: again, parts: { wallClock: wallClockOf(again, clock) } });
      expect(await signOnce(await openSession(broker))).toBe(REJECTED);
      expect(broker.requests).toEqual([]);
    });
  });

  it("I6: a scope opens and closes with its validity, while a connection stays", async () => {
    await start({ valid: { from: "2026-11-26T12:00:00Z", until: "2026-11-26T13:00:00Z" } });
    const client = await openSession(broker);
    expect(await signOnce(client)).toBe(0n);
    expect((await signInit(client)).rv).toBe(0n);
    broker.wallTime = Date.parse("2026-11-26T13:00:00Z");
    expect((await sign(client)).rv).toBe(REJECTED);
    expect(steps()).toEqual(["valid"]);
  });
});

describe("the policy in force", () => {
  const keys = softwareKeys();
  const documentOf = (change: (document: PolicyDocument) => void = () => undefined) => {
    const audit = { perMinute: 600, burst: 60 };
    const spki = keys.publicKeys.get("release-ec")?.spki ?? new Uint8Array();
    const document: PolicyDocument = {
      ...policyDocument(),
      keys: { "release-ec": { spki: `sha256:${sha256Hex(spki)}`, does: "sign" } },
    };
    document.scopes = document.scopes.slice(0, 1).map((scope) => ({ ...scope, rate: audit }));
    change(document);
    return document;
  };
  const live = new LivePolicy(parsePolicy(documentBytes(documentOf())));

  it("I6: a handle means the key that it meant, also when a narrower policy has fewer keys in another order", async () => {
    const mechanisms = [{ type: "CKM_ECDSA", digest: "sha256" }, { type: "CKM_SHA256_RSA_PKCS" }];
    const spkiOf = (name: string) => `sha256:${sha256Hex(keys.publicKeys.get(name)?.spki ?? new Uint8Array())}`;
    const over = (names: string[], rules = mechanisms) =>
      parsePolicy(
        documentBytes({
          ...policyDocument(),
          keys: Object.fromEntries(
            ["release-ec", "release-rsa"].map((name) => [name, { spki: spkiOf(name), does: "sign" }]),
          ),
          scopes: [
            { name: "release-signing", caller: "release-signer", keys: names, mechanisms: rules, audit: "written" },
          ],
        }),
      );
    const two = new LivePolicy(over(["release-ec", "release-rsa"]));
    const change = (document: PolicyDocument) => {
      document.scopes = document.scopes.slice(0, 1);
      Object.assign(document.scopes[0] ?? {}, { key: undefined, keys: ["release-ec", "release-rsa"], mechanisms });
    };
    broker = await startBroker({ publicKeys: keys.publicKeys, token: keys, change, parts: { live: two } });
    const client = await openSession(broker);
    two.narrow(over(["release-rsa", "release-ec"]));
    expect((await signInit(client, ECDSA, 1n)).rv).toBe(0n);
    expect((await sign(client)).rv).toBe(0n);
    two.narrow(over(["release-rsa"], mechanisms.slice(1)));
    expect((await signInit(client, ECDSA, 1n)).rv).toBe(0x60n);
    expect((await signInit(client, plain(0, 0x40), 1n)).rv).toBe(0x60n);
    expect((await signInit(client, plain(0, 0x40), 3n)).rv).toBe(0n);
    expect((await sign(client)).rv).toBe(0n);
    expect(broker.requests.map(({ key }) => key)).toEqual(["release-ec", "release-rsa"]);
  });

  it("I6: a frozen scope and a policy that was narrowed hold for what is not decided yet, on every connection", async () => {
    const { publicKeys } = keys;
    const change = (document: PolicyDocument) => Object.assign(document, documentOf());
    const only = new Map([...publicKeys].filter(([name]) => name === "release-ec"));
    broker = await startBroker({ publicKeys: only, token: keys, change, parts: { live } });
    const [client, other] = [await openSession(broker), await openSession(broker)];
    expect([await signOnce(client), (await signInit(client)).rv, (await signInit(other)).rv]).toEqual([0n, 0n, 0n]);
    const narrower = documentOf(({ scopes }) =>
      Object.assign(scopes[0] ?? {}, { mechanisms: [{ type: "CKM_ECDSA", digest: "sha384" }] }),
    );
    live.narrow(parsePolicy(documentBytes(narrower)));
    expect((await sign(client)).rv).toBe(0x21n);
    live.freeze({ all: false, scopes: new Set(["release-signing"]) });
    expect((await sign(other, new Uint8Array(48))).rv).toBe(REJECTED);
    live.narrow(
      parsePolicy(documentBytes(documentOf(({ scopes }) => Object.assign(scopes[0] ?? {}, { name: "renamed" })))),
    );
    expect((await signInit(client)).rv).toBe(REJECTED);
    expect(steps()).toEqual(["parameters", "frozen", "caller"]);
    expect(broker.requests).toHaveLength(1);
  });
});

describe("a freeze while the token works", () => {
  it("I6: what was asked before it and is not answered yet is not answered: the result is withheld, and recorded", async () => {
    const keys = softwareKeys();
    const parts: { live?: LivePolicy } = {};
    const token: typeof keys = {
      ...keys,
      sign: async (request) => {
        const bytes = await keys.sign(request);
        parts.live?.freeze({ all: true, scopes: new Set() });
        return bytes;
      },
    };
    const document = policyDocument();
    for (const [name, source] of keys.publicKeys)
      Object.assign(document.keys[name] ?? {}, { spki: `sha256:${sha256Hex(source.spki)}` });
    parts.live = new LivePolicy(parsePolicy(documentBytes(document)));
    const change = (own: PolicyDocument) => void Object.assign(own, document);
    broker = await startBroker({ publicKeys: keys.publicKeys, token, change, parts: { live: parts.live } });
    const client = await openSession(broker);
    expect(await signOnce(client)).toBe(REJECTED);
    expect(steps()).toEqual(["frozen"]);
  });
});

describe("approvals at the broker", () => {
  /** A gate that remembers what it was asked, and whose approvers the test names. */
  function gate(): ApprovalGate & {
    readonly asked: ApprovalRequest[];
    readonly used: ApprovalRequest[];
    approvers: string[];
  } {
    const made = {
      ...{ asked: [] as ApprovalRequest[], used: [] as ApprovalRequest[], approvers: [] as string[] },
      approvedBy: (request: ApprovalRequest) => {
        made.asked.push(request);
        return { id: "r1", approvers: made.approvers };
      },
      use: (request: ApprovalRequest) => made.used.push(request) > 0,
    };
    return made;
  }
  const approvers = (document: PolicyDocument) => {
    const key = (last: string) =>
      `ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJHW4bXyS9Qm9bIcJVbTfWZxYwq4LkWz8oRl9nWv3hT${last}`;
    Object.assign(document, {
      approvers: { bob: { key: key("F"), notFor: [] }, carol: { key: key("G"), notFor: [] } },
    });
  };
  const approvals = { required: 2, of: ["bob", "carol"], for: "operation", window: "PT15M" };

  it("I6: nothing is signed before as many have approved as the policy wants, and then once for each time", async () => {
    const approving = gate();
    await start({ approvals }, { change: approvers, parts: { approvals: approving } });
    const client = await openSession(broker);
    expect(await signOnce(client)).toBe(REJECTED);
    approving.approvers = ["bob"];
    expect(await signOnce(client)).toBe(REJECTED);
    approving.approvers = ["carol", "bob"];
    expect(await signOnce(client)).toBe(0n);
    expect(approving.used).toHaveLength(1);
    expect(approving.asked[0]).toEqual({
      ...{ scope: "release-signing", caller: "release-signer", key: "release-ec", operation: "sign" },
      keySpki: expect.stringMatching(/^sha256:[0-9a-f]{64}$/) as string,
      ...{ mechanism: "CKM_ECDSA", parameters: "none", input: `sha256:${sha256Hex(DIGEST)}` },
    });
    expect(new Set(approving.asked.map((request) => JSON.stringify(request))).size).toBe(1);
    expect(steps()).toEqual(["approvals", "approvals"]);
  });

  it("I6: what is refused for another reason asks for no approval, and uses none", async () => {
    const approving = gate();
    approving.approvers = ["bob", "carol"];
    await start({ approvals, budget: { operations: 1 } }, { change: approvers, parts: { approvals: approving } });
    const client = await openSession(broker);
    expect(await signOnce(client, new Uint8Array(31))).toBe(0x21n);
    expect(await signOnce(client)).toBe(0n);
    expect(await signOnce(client)).toBe(REJECTED);
    expect([approving.asked.length, approving.used.length]).toEqual([1, 1]);
  });
});

describe("what is counted", () => {
  it("I8: every decision is counted once, by its outcome, and every answer of the token is timed", async () => {
    const seen: string[] = [];
    const meter: Meter = {
      decided: (scope, outcome) => void seen.push(`${scope} ${outcome}`),
      answered: (scope, operation) => void seen.push(`${scope} ${operation}`),
    };
    await start({}, { parts: { meter } });
    const client = await openSession(broker);
    await signOnce(client);
    await signOnce(client, new Uint8Array(5));
    await signInit(client, ECDSA, 9n);
    broker.peer = null;
    await (await openClient(broker)).call("C_Initialize", INITIALIZE_VALUES);
    expect(seen).toEqual([
      ...["release-signing allow", "release-signing sign", "release-signing parameters", "release-signing key"],
      "release-signing caller",
    ]);
  });
});
