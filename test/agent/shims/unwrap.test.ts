import { createPublicKey, generateKeyPairSync, type KeyObject, verify } from "node:crypto";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { type Meter, NO_METER } from "../../../agent/broker/index.ts";
import { domainToken } from "../../../agent/scopes/serve.ts";
import { concatBytes, sha256, sha256Hex, toBase64, utf8 } from "../../../policy/index.ts";
import { type BrokerFixture, startBroker } from "../../support/broker-fixture.ts";
import { oaep, openSession, PRIVATE, plain, sign } from "../../support/broker-session.ts";
import { type DomainBench, openDomainBench, type TestDomain } from "../../support/domain-fixture.ts";
import { byteArray, type RawClient, type Reply, u32, ulongs } from "../../support/rpc-client.ts";
import { keyNamed, makeToken, publicKeyOf, SOFTHSM, TEST_PIN, writeHostProfile } from "../../support/shim-fixture.ts";
import { encryptOaep, SHA1_OAEP } from "../../support/wrapping.ts";

const MESSAGE = utf8("a message to sign");
const DIGEST = sha256(MESSAGE);
const ECDSA = plain(0, 0x1041);
const CKR = { wrappedInvalid: 0x110n, template: 0xd1n, noKey: 0x60n, noUse: 0x68n, mechanism: 0x70n } as const;
const [CKA_LABEL, CKA_SENSITIVE, CKA_EXTRACTABLE] = [3, 0x103, 0x162];

let bench: DomainBench;
let kek: KeyObject;
let token: ReturnType<typeof makeToken>;
let profile: string;
beforeAll(async () => {
  bench = await openDomainBench();
  token = makeToken(bench.bench);
  profile = writeHostProfile(bench.bench, token);
});
afterAll(() => bench.close());

let opened: TestDomain;
let broker: BrokerFixture;
let signer: { readonly publicKey: KeyObject; readonly privateKey: KeyObject };
let wrapped: Uint8Array;
beforeEach(async () => {
  const own = { library: SOFTHSM, environment: token.environment, profile, pin: TEST_PIN, label: "bench" };
  opened = await bench.open({ ...own, uses: { rsa: "unwrap" } }, { spares: 1 });
  kek = publicKeyOf(keyNamed(await opened.domain.use("rsa", (shim, { slotId }) => shim.keys(slotId)), "rsa"));
  signer = generateKeyPairSync("ec", { namedCurve: "P-256" });
  wrapped = encryptOaep(kek, Uint8Array.from(signer.privateKey.export({ format: "der", type: "pkcs8" })));
});
afterEach(async () => {
  await broker.close();
  opened.domain.close();
  for (const child of opened.processes) child.kill("SIGKILL");
});

const spkiOf = (key: KeyObject) => Uint8Array.from(key.export({ format: "der", type: "spki" }));

/** A scope that lets the signer in by its blob, one that uses it, and one of another name that does not. */
async function start(rule: Record<string, unknown> = {}, meter: Meter = NO_METER): Promise<void> {
  const arrival = {
    ...{ key: "restored", publicKey: toBase64(spkiOf(signer.publicKey)), does: "sign", where: "session" },
    ...{
      label: `restored ${sha256Hex(wrapped).slice(0, 8)}`,
      mechanisms: ["CKM_ECDSA"],
      blob: `sha256:${sha256Hex(wrapped)}`,
    },
    ...rule,
  };
  const scope = { caller: "release-signer", audit: "written" };
  broker = await startBroker({
    ...{ token: domainToken(opened.domain), parts: { meter } },
    publicKeys: new Map([["rsa", { spki: spkiOf(kek), id: Uint8Array.of(2), label: "rsa" }]]),
    change: (document) => {
      document.keys = { rsa: { spki: `sha256:${sha256Hex(spkiOf(kek))}`, does: "unwrap" } };
      const mechanisms = [{ type: "CKM_RSA_PKCS_OAEP", digest: "sha1" }];
      document.scopes = [
        { ...scope, name: "restore", key: "rsa", mechanisms, unwraps: [arrival], audit: "durable" },
        {
          ...scope,
          name: "restored",
          from: "restore",
          key: "restored",
          mechanisms: [{ type: "CKM_ECDSA", digest: "sha256" }],
        },
      ];
    },
  });
}

const byteString = (bytes: Uint8Array) => concatBytes(u32(bytes.length), bytes);

function attribute(type: number, value: Uint8Array): Uint8Array {
  const content = type === CKA_LABEL ? byteString(value) : value;
  return concatBytes(u32(type), Uint8Array.of(1), u32(value.length), content);
}

function unwrap(
  client: RawClient,
  bytes = wrapped,
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
  const key = {
    key: createPublicKey(signer.publicKey.export({ format: "pem", type: "spki" })),
    dsaEncoding: "ieee-p1363",
  } as const;
  expect(verify("sha256", MESSAGE, key, reply.values.slice(5, 69))).toBe(true);
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
        byteArray(wrapped),
        u32(0),
      )
    ).rv,
  ).not.toBe(0n);
  const unwraps = broker.records().filter(({ operation, decision }) => operation === "unwrap" && decision === "allow");
  expect(unwraps).toHaveLength(2);
  expect(unwraps[0]).toMatchObject({ key: "rsa", inputDigest: `sha256:${sha256Hex(wrapped)}`, scope: "restore" });
});

test("I7: another blob, a template that wants more, and a key that is not the policy's are refused, and nothing is served", async () => {
  await start();
  const [restorer, user] = [await openSession(broker, "restore"), await openSession(broker, "restored")];
  const other = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const foreign = encryptOaep(kek, Uint8Array.from(other.privateKey.export({ format: "der", type: "pkcs8" })));
  expect((await unwrap(restorer, foreign)).rv).toBe(CKR.wrappedInvalid);
  const [yes, no] = [Uint8Array.of(1), Uint8Array.of(0)];
  for (const template of [[attribute(CKA_EXTRACTABLE, yes)], [attribute(CKA_SENSITIVE, no)]])
    expect((await unwrap(restorer, wrapped, template)).rv).toBe(CKR.template);
  expect(
    (await restorer.call("C_UnwrapKey", ulongs(1n), plain(0, 0x2109), ulongs(PRIVATE), byteArray(wrapped), u32(0))).rv,
  ).toBe(CKR.mechanism);
  expect(await use(user)).toBe(CKR.noKey);
  expect(opened.domain.end).toBeNull();
});

test("I7: a listed blob that is not the named key is barred although it came in", async () => {
  const other = generateKeyPairSync("ec", { namedCurve: "P-256" });
  wrapped = encryptOaep(kek, Uint8Array.from(other.privateKey.export({ format: "der", type: "pkcs8" })));
  const counted: string[] = [];
  await start({}, { ...NO_METER, decided: (scope, outcome) => void counted.push(`${scope} ${outcome}`) });
  const [restorer, user] = [await openSession(broker, "restore"), await openSession(broker, "restored")];
  expect((await unwrap(restorer)).rv).toBe(CKR.wrappedInvalid);
  expect(counted).toEqual(["restore allow", "restore token"]); // the record is there, the key is not
  expect(await use(user)).toBe(CKR.noKey);
});

test("I7: the token's own label is the policy's, whatever the caller writes", async () => {
  await start();
  const restorer = await openSession(broker, "restore");
  expect((await unwrap(restorer, wrapped, [attribute(CKA_LABEL, utf8("mine"))])).rv).toBe(0n);
  const held = await opened.domain.use("rsa", (shim, { slotId }) => shim.keys(slotId));
  expect(held.map(({ label }) => label).filter((label) => label.startsWith("restored") || label === "mine")).toEqual([
    `restored ${sha256Hex(wrapped).slice(0, 8)}`,
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
  opened.processes[0]?.kill("SIGKILL");
  await expect.poll(() => opened.domain.shims.map(({ role }) => role)).toEqual(["ended", "active"]);
  expect(await use(user)).toBe(0n);
  expect(bench.audited().filter(({ operation }) => operation === "unwrap")).toMatchObject([
    { scope: "signing", key: "restore/restored", decision: "allow", reason: "again, in shim 1 that took over" },
  ]);
});

test("I5: a token in files takes no object once its shim is armed: nothing is opened for writing any more", async () => {
  await start({ where: "token" });
  const [restorer, user] = [await openSession(broker, "restore"), await openSession(broker, "restored")];
  expect((await unwrap(restorer)).rv).toBe(CKR.wrappedInvalid);
  expect(await use(user)).toBe(CKR.noKey);
  expect(opened.attempts()).toEqual({});
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
    ...{ allowedMechanisms: [0x1041n], label: "", id: new Uint8Array(), wrapped },
  };
  await opened.domain.arrive({
    ...{ name: "restore/restored", by: "rsa", where: "token", prove: async () => undefined },
    unwrap: (shim, place) => shim.unwrap({ ...place, ...session }),
  });
  const one = () =>
    opened.domain.use("restore/restored", (shim, place) =>
      shim.sign({ ...place, mechanism: 0x1041n, pss: null, data: DIGEST }),
    );
  expect(await one()).toHaveLength(64);
  opened.processes[0]?.kill("SIGKILL");
  await expect.poll(() => opened.domain.shims.map(({ role }) => role)).toEqual(["ended", "active"]);
  await expect(one()).rejects.toMatchObject({ code: "ERR_KEY_GONE" });
  expect(await use(user)).toBe(CKR.noKey);
});
