import { setImmediate as turn } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { concatBytes, sha256Hex, utf8 } from "../../../policy/index.ts";
import type { BrokerFixture } from "../../support/broker-fixture.ts";
import { oaep, openSession, PRIVATE, plain, sign } from "../../support/broker-session.ts";
import type { DomainOptions } from "../../support/domain-fixture.ts";
import { byteArray, type RawClient, type Reply, u32, ulongs } from "../../support/rpc-client.ts";
import { DIGEST, openUnwrapLab, type UnwrapBench, type UnwrapLab } from "../../support/unwrap-bench.ts";
import { SHA1_OAEP } from "../../support/wrapping.ts";

const ECDSA = plain(0, 0x1041);
const CKR = { wrappedInvalid: 0x110n, template: 0xd1n, noKey: 0x60n, noUse: 0x68n, mechanism: 0x70n } as const;
const [CKA_LABEL, CKA_SENSITIVE, CKA_EXTRACTABLE, CKA_DECRYPT, CKA_SIGN] = [3, 0x103, 0x162, 0x105, 0x108];

let lab: UnwrapLab;
beforeAll(async () => {
  lab = await openUnwrapLab();
});
afterAll(() => lab.close());

let bench: UnwrapBench;
let broker: BrokerFixture;
beforeEach(async () => {
  bench = await lab.open();
});
afterEach(() => lab.end());

/** A scope that lets the signer in by its blob, one that uses it, and one of another name that does not. */
async function start(rule: Record<string, unknown> = {}): Promise<void> {
  await bench.start(rule);
  ({ broker } = bench);
}

const byteString = (bytes: Uint8Array) => concatBytes(u32(bytes.length), bytes);

function attribute(type: number, value: Uint8Array): Uint8Array {
  const content = type === CKA_LABEL ? byteString(value) : value;
  return concatBytes(u32(type), Uint8Array.of(1), u32(value.length), content);
}

function unwrap(
  client: RawClient,
  bytes = bench.wrapped,
  template: readonly Uint8Array[] = [],
  key = PRIVATE,
): Promise<Reply> {
  const attributes = concatBytes(u32(template.length), ...template);
  return client.call("C_UnwrapKey", ulongs(1n), oaep(0, { digest: "sha1" }), ulongs(key), byteArray(bytes), attributes);
}

/** The rv of a signature in the using scope; a good signature is verified. */
async function use(client: RawClient): Promise<bigint> {
  const init = await client.call("C_SignInit", ulongs(1n), ECDSA, ulongs(PRIVATE));
  if (init.rv !== 0n) return init.rv;
  const reply = await sign(client, DIGEST);
  if (reply.rv !== 0n) return reply.rv;
  expect(bench.isSigners(reply.values.slice(5, 69))).toBe(true);
  return 0n;
}

test("I7: the listed blob comes in, is used by the scope that names this one, and by no other; again is answered with the same key", async () => {
  await start();
  const [restorer, user] = [await openSession(broker, "restore"), await openSession(broker, "restored")];
  expect(await use(user)).toBe(CKR.noKey);
  const reply = await unwrap(restorer);
  expect(reply).toMatchObject({ rv: 0n, values: ulongs(3n) });
  expect(await use(user)).toBe(0n);
  expect(await unwrap(restorer)).toMatchObject({ rv: 0n, values: ulongs(3n) });
  for (const handle of [1n, 3n])
    expect((await restorer.call("C_SignInit", ulongs(1n), ECDSA, ulongs(handle))).rv).not.toBe(0n);
  expect((await restorer.call("C_DecryptInit", ulongs(1n), oaep(0, { digest: "sha1" }), ulongs(PRIVATE))).rv).toBe(
    CKR.noUse,
  );
  expect(
    (
      await user.call(
        "C_UnwrapKey",
        ulongs(1n),
        oaep(0, { digest: "sha1" }),
        ulongs(PRIVATE),
        byteArray(bench.wrapped),
        u32(0),
      )
    ).rv,
  ).not.toBe(0n);
  const unwraps = broker.records().filter(({ operation, decision }) => operation === "unwrap" && decision === "allow");
  expect(unwraps).toHaveLength(2);
  expect(unwraps[0]).toMatchObject({ key: "rsa", inputDigest: `sha256:${sha256Hex(bench.wrapped)}`, scope: "restore" });
});

test("I7 I8: another blob, a template that wants more or another use, and a key that is not the policy's are refused and recorded, and nothing is served", async () => {
  await start();
  const [restorer, user] = [await openSession(broker, "restore"), await openSession(broker, "restored")];
  const foreign = bench.foreign();
  expect((await unwrap(restorer, foreign)).rv).toBe(CKR.wrappedInvalid);
  const [yes, no] = [Uint8Array.of(1), Uint8Array.of(0)];
  const wrong = [
    attribute(CKA_EXTRACTABLE, yes),
    attribute(CKA_SENSITIVE, no),
    attribute(CKA_DECRYPT, yes),
    attribute(CKA_SIGN, no),
  ];
  for (const one of wrong) expect((await unwrap(restorer, bench.wrapped, [one])).rv).toBe(CKR.template);
  expect(
    (
      await restorer.call(
        "C_UnwrapKey",
        ulongs(1n),
        plain(0, 0x2109),
        ulongs(PRIVATE),
        byteArray(bench.wrapped),
        u32(0),
      )
    ).rv,
  ).toBe(CKR.mechanism);
  expect(await use(user)).toBe(CKR.noKey);
  expect(bench.opened.domain.end).toBeNull();
  const denied = broker.records().filter(({ operation }) => operation === "unwrap");
  expect(denied.map(({ decision, step }) => `${decision} ${step}`)).toEqual([
    ...Array(5).fill("deny parameters"),
    "deny mechanism",
  ]);
  expect(denied[0]?.reason).toBe("a blob that no rule lets in");
  const named = denied.slice(1, 5).map(({ reason }) => /0x[0-9a-f]+/.exec(reason)?.[0]);
  expect(named).toEqual(["0x162", "0x103", "0x105", "0x108"]);
});

test("I7: a listed blob that is not the named key is barred although it came in", async () => {
  bench.wrapped = bench.foreign();
  await start();
  const [restorer, user] = [await openSession(broker, "restore"), await openSession(broker, "restored")];
  expect((await unwrap(restorer)).rv).toBe(CKR.wrappedInvalid);
  expect(await use(user)).toBe(CKR.noKey);
});

test("I7: the token's own label is the policy's, whatever the caller writes", async () => {
  await start();
  const restorer = await openSession(broker, "restore");
  expect((await unwrap(restorer, bench.wrapped, [attribute(CKA_LABEL, utf8("mine"))])).rv).toBe(0n);
  const held = await bench.opened.domain.use("rsa", (shim, { slotId }) => shim.keys(slotId));
  expect(held.map(({ label }) => label).filter((label) => label.startsWith("restored") || label === "mine")).toEqual([
    `restored ${sha256Hex(bench.wrapped).slice(0, 8)}`,
  ]);
  const made = held.find(({ label }) => label.startsWith("restored"));
  expect(
    ["sign", "decrypt", "unwrap", "sensitive", "extractable"].map((flag) => made?.flags.get(flag as "sign")),
  ).toEqual([...[true, false, false, true, false]]);
});

test("I8: a session's key outlives its shim: it is unwrapped again in the one that takes over, with a record of its own", async () => {
  await start();
  const [restorer, user] = [await openSession(broker, "restore"), await openSession(broker, "restored")];
  expect((await unwrap(restorer)).rv).toBe(0n);
  expect(await use(user)).toBe(0n);
  bench.opened.processes[0]?.kill("SIGKILL");
  await expect.poll(() => bench.opened.domain.shims.map(({ role }) => role)).toEqual(["ended", "active"]);
  expect(await use(user)).toBe(0n);
  expect(bench.domains.audited().filter(({ operation }) => operation === "unwrap")).toMatchObject([
    {
      ...{ scope: "restore", key: "rsa", inputDigest: `sha256:${sha256Hex(bench.wrapped)}`, decision: "allow" },
      reason: "restored again, in shim 1 that took over",
    },
  ]);
});

describe("a key that arrived where two shims serve", () => {
  const again = () =>
    bench.domains
      .audited()
      .filter(({ operation }) => operation === "unwrap")
      .map(({ reason }) => reason);
  const end = async (id: number) => {
    bench.opened.processes[id]?.kill("SIGKILL");
    await bench.opened.shims[id]?.closed;
    await bench.opened.domain.settled();
  };
  const arrive = async (options: DomainOptions) => {
    await lab.end();
    bench = await lab.open(options);
    await start();
    const [restorer, user] = [await openSession(broker, "restore"), await openSession(broker, "restored")];
    // The first has enough to do, by which any other request would go to the second.
    const gate = Promise.withResolvers<void>();
    const held = bench.opened.domain.use("rsa", () => gate.promise);
    expect((await unwrap(restorer)).rv).toBe(0n);
    gate.resolve();
    await held;
    const before = again();
    return { user, since: () => again().slice(before.length) };
  };

  test("I7: is used in the shim that unwrapped it, however much that has to do, and the other one's end does not touch it", async () => {
    const { user, since } = await arrive({ shims: 2 });
    const gate = Promise.withResolvers<void>();
    const held = Array.from({ length: 4 }, () => bench.opened.domain.use("rsa", () => gate.promise));
    expect(await use(user)).toBe(0n);
    gate.resolve();
    await Promise.all(held);
    await end(1);
    expect(await use(user)).toBe(0n);
    expect(since()).toEqual([]);
  });

  test.each([
    ["a spare takes the first one's place", { shims: 2, spares: 1 }, 2],
    ["no spare is left, and the second is the first from then on", { shims: 2 }, 1],
  ] as const)("I8: outlives that shim, unwrapped again with a record, when %s", async (_, options, host) => {
    const { user, since } = await arrive(options);
    await end(0);
    expect(await use(user)).toBe(0n);
    expect(since()).toEqual([`restored again, in shim ${host} that took over`]);
    expect(bench.opened.domain.end).toBeNull();
  });
});

test.each([
  ["the one spare is asked for nothing", { spares: 1 }, []],
  ["the spare is asked for nothing, and the other one serves", { shims: 2, spares: 1 }, [1]],
  ["the other one, which takes it in, serves on", { shims: 2 }, [1]],
] as const)("I7 I8: while a key is unwrapped again %s, and uses of that key wait", async (_, options, meanwhile) => {
  await lab.end();
  bench = await lab.open(options);
  const { domain, shims, processes } = bench.opened;
  const gate = Promise.withResolvers<void>();
  let tries = 0;
  await domain.arrive({
    ...{ name: "restore/restored", by: "rsa", where: "session", stillAllowed: () => true },
    ...{ blob: `sha256:${"00".repeat(32)}`, unwrap: async () => 77n, prove: async () => undefined },
    tryOut: async () => {
      if (++tries > 1) await gate.promise;
      return 76n;
    },
  });
  processes[0]?.kill("SIGKILL");
  await expect.poll(() => tries).toBe(2);
  const asked: number[] = [];
  const other = domain.use("rsa", async (shim) => asked.push(shims.indexOf(shim)));
  const arrived = domain.use("restore/restored", async (shim, { handle }) => [shims.indexOf(shim), handle]);
  await turn();
  expect(asked).toEqual(meanwhile);
  gate.resolve();
  const host = "spares" in options ? shims.length - 1 : 1;
  expect(await arrived).toEqual([host, 77n]);
  await other;
  expect(asked).toHaveLength(1);
});

test("I5: a token in files takes no object once its shim is armed: nothing is opened for writing any more", async () => {
  await start({ where: "token" });
  const [restorer, user] = [await openSession(broker, "restore"), await openSession(broker, "restored")];
  expect((await unwrap(restorer)).rv).toBe(CKR.wrappedInvalid);
  expect(await use(user)).toBe(CKR.noKey);
  expect(bench.opened.attempts()).toEqual({});
});

test("I7: of an object on the token the next shim knows no handle: the key is gone until the next launch, and said to be", async () => {
  await start();
  const user = await openSession(broker, "restored");
  const session = {
    ...({
      mechanism: 0x9n,
      oaep: SHA1_OAEP,
      objectClass: "private",
      keyType: 3n,
      use: "sign",
      where: "session",
    } as const),
    ...{ allowedMechanisms: [0x1041n], label: "", id: new Uint8Array(), wrapped: bench.wrapped },
  };
  await bench.opened.domain.arrive({
    ...{ name: "restore/restored", by: "rsa", where: "token", blob: "sha256:00" },
    ...{ prove: async () => undefined, stillAllowed: () => true, tryOut: async () => 0n },
    unwrap: (shim, place) => shim.unwrap({ ...place, ...session }),
  });
  const one = () =>
    bench.opened.domain.use("restore/restored", (shim, place) =>
      shim.sign({ ...place, mechanism: 0x1041n, pss: null, data: DIGEST }),
    );
  expect(await one()).toHaveLength(64);
  bench.opened.processes[0]?.kill("SIGKILL");
  await expect.poll(() => bench.opened.domain.shims.map(({ role }) => role)).toEqual(["ended", "active"]);
  await expect(one()).rejects.toMatchObject({ code: "ERR_KEY_GONE" });
  expect(await use(user)).toBe(CKR.noKey);
});

test("I6: a takeover unwraps no key that the policy in force would not let in any more: it is gone, and no record says otherwise", async () => {
  await start();
  const plainKey = { objectClass: "private", keyType: 3n, use: "sign", where: "session", label: "" } as const;
  const asked = { ...plainKey, mechanism: 0x9n, oaep: SHA1_OAEP, allowedMechanisms: [0x1041n], id: new Uint8Array() };
  const unwrapNow: Parameters<typeof bench.opened.domain.arrive>[0]["unwrap"] = (shim, place) =>
    shim.unwrap({ ...place, ...asked, wrapped: bench.wrapped });
  let allowed = true;
  await bench.opened.domain.arrive({
    ...{ name: "restore/restored", by: "rsa", where: "session", blob: "sha256:00", stillAllowed: () => allowed },
    ...{ tryOut: unwrapNow, unwrap: unwrapNow, prove: async () => undefined },
  });
  allowed = false;
  const before = bench.domains.audited().filter(({ operation }) => operation === "unwrap").length;
  bench.opened.processes[0]?.kill("SIGKILL");
  await expect.poll(() => bench.opened.domain.shims.map(({ role }) => role)).toEqual(["ended", "active"]);
  await expect(bench.opened.domain.use("restore/restored", async () => 0)).rejects.toMatchObject({
    code: "ERR_KEY_GONE",
  });
  expect(bench.domains.audited().filter(({ operation }) => operation === "unwrap")).toHaveLength(before);
});

test.each(["before it is tried out", "while it is tried out"])(
  "I6: a key that is taken away %s is not made on the token",
  async (moment) => {
    await start();
    let [allowed, tried, made] = [moment !== "before it is tried out", 0, 0];
    const arriving = bench.opened.domain.arrive({
      ...{ name: "restore/restored", by: "rsa", where: "token", blob: "sha256:00", stillAllowed: () => allowed },
      tryOut: async () => {
        tried += 1;
        allowed = false;
        return 0n;
      },
      unwrap: async () => {
        made += 1;
        return 0n;
      },
      prove: async () => undefined,
    });
    await expect(arriving).rejects.toMatchObject({ code: "ERR_KEY_GONE", got: "taken away" });
    expect([tried, made]).toEqual([moment === "while it is tried out" ? 1 : 0, 0]);
    await expect(bench.opened.domain.use("restore/restored", async () => 0)).rejects.toMatchObject({
      code: "ERR_KEY_GONE",
    });
  },
);
