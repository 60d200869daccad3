import { createHash, createPublicKey, type KeyObject, verify, X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { fromHex } from "../../policy/index.ts";
import { type CardService, startCardService } from "../support/card-service.ts";
import {
  PROXY_CLIENT,
  PROXY_CLIENT_CONFIG,
  proxyEnvironment,
  startTokenProxy,
  type TokenProxy,
} from "../support/pkcs11-proxy.ts";
import { freePort, openPairBench, type Pair, type PairBench } from "../support/relay-pair.ts";
import type { PairResult, PairSignature } from "../support/relay-pair-agent.ts";
import { TEST_PIN } from "../support/shim-fixture.ts";

const MESSAGE = new TextEncoder().encode("what the keys behind a relay sign\n");
const DIGEST = createHash("sha256").update(MESSAGE).digest();

let bench: PairBench;

beforeAll(async () => {
  bench = await openPairBench();
});
afterAll(() => bench.remove());

function isGood({ type, signature }: PairSignature, key: KeyObject): boolean {
  const bytes = fromHex(signature);
  // EC keys sign the 32 bytes as a digest, RSA keys hash them once more
  return type === "ec"
    ? verify("sha256", MESSAGE, { key, dsaEncoding: "ieee-p1363" }, bytes)
    : verify("sha256", DIGEST, key, bytes);
}

/** Both keys have signed before and after ARM, and every signature is the key's. */
function expectSignatures(result: PairResult, keys: Readonly<Record<PairSignature["type"], KeyObject>>): void {
  expect(result.failed).toBeNull();
  const made = result.signatures.map(({ type, armed }) => `${type} ${armed ? "after ARM" : "before ARM"}`);
  expect([...made].sort()).toEqual(["ec after ARM", "ec before ARM", "rsa after ARM", "rsa before ARM"]);
  for (const signature of result.signatures)
    expect(isGood(signature, keys[signature.type]), `${signature.type} ${signature.armed}`).toBe(true);
}

/** The shim was what the profile says: its own network, three filters, no capability, and the library tried nothing. */
function expectConfined(result: PairResult): void {
  expect(result.shown).toEqual({});
  expect(result.filters).toBe(3);
  expect(result.ownNamespaces.filter((name) => name.startsWith("net:"))).toHaveLength(1);
  expect(result.status).toMatchObject({ CapEff: "0000000000000000", NoNewPrivs: "1", Seccomp: "2" });
  expect(result.probe.filter(({ errno }) => errno === 0)).toEqual([]);
}

describe("a PKCS#11 library that speaks TCP to a proxy, behind the relay (Caml Crush)", () => {
  const LISTEN = 1500;
  let proxy: TokenProxy;

  beforeAll(async () => {
    proxy = await startTokenProxy(bench);
  });
  afterAll(() => proxy.stop());

  const towards = (port: number): readonly string[] =>
    Object.entries(proxyEnvironment(port)).map(([name, value]) => `${name}=${value}`);
  const pair = (change: Partial<Pair> = {}): Pair => ({
    profile: "relay",
    library: PROXY_CLIENT,
    config: PROXY_CLIENT_CONFIG,
    environment: towards(LISTEN),
    connect: [{ listen: `127.0.0.1:${LISTEN}`, to: `127.0.0.1:${proxy.port}` }],
    token: "bench",
    pin: TEST_PIN,
    data: DIGEST.toString("hex"),
    ...change,
  });
  test("I5: the library loads, logs in, lists keys and signs with EC and RSA, and nothing it does is shown as an attempt", async () => {
    const result = await bench.run(pair());
    const spki = (id: string): KeyObject =>
      createPublicKey({ key: Buffer.from(proxy.publicKey(id)), format: "der", type: "spki" });
    expectSignatures(result, { ec: spki("01"), rsa: spki("02") });
    expectConfined(result);
  });

  test("I5: without a relay the same library under the same profile reaches nothing", async () => {
    const result = await bench.run(pair({ connect: [], environment: towards(proxy.port) }));
    expect(result.failed?.step).toBe("load");
    expect(result.signatures).toEqual([]);
  });

  test("I5: another port of the machine is not reached, though somebody listens there and the library asks for it", async () => {
    let asked = 0;
    const other: Server = createServer(() => {
      asked += 1;
    });
    const port = await freePort();
    await new Promise<void>((done) => other.listen(port, "127.0.0.1", done));
    try {
      for (const target of [port, proxy.port]) {
        const result = await bench.run(pair({ environment: towards(target) }));
        expect(result.failed?.step, `port ${target}`).toBe("load");
      }
      expect(asked).toBe(0);
    } finally {
      other.close();
    }
  });

  test("I5: under the profile local the relay is of no use: the library is denied its socket, and the attempt is shown", async () => {
    const result = await bench.run(pair({ profile: "local" }));
    expect(result.failed?.step).toBe("load");
    expect(result.shown["socket"]).toBeGreaterThan(0);
  });
});

describe("a PKCS#11 library that speaks to pcscd over its Unix socket, behind the relay (OpenSC)", () => {
  const PIN = "284613";
  const SOCKET = "/run/pcscd/pcscd.comm";
  let service: CardService;

  beforeAll(async () => {
    service = await startCardService(bench, PIN);
  });
  afterAll(() => service.stop());

  const pair = (change: Partial<Pair> = {}): Pair => ({
    profile: "relay",
    library: "/usr/lib/x86_64-linux-gnu/opensc-pkcs11.so",
    opened: ["/usr/lib/x86_64-linux-gnu/libpcsclite.so.1"],
    environment: [],
    connect: [{ listen: SOCKET, to: service.socket }],
    token: "piv",
    pin: PIN,
    data: DIGEST.toString("hex"),
    ...change,
  });

  test("I5: the card's token is listed and its keys sign with EC and RSA, with the threads that the library starts", async () => {
    const result = await bench.run(pair());
    const key = (name: string): KeyObject =>
      new X509Certificate(readFileSync(join(service.keys, `${name}.der`))).publicKey;
    expectSignatures(result, { ec: key("piv-ec"), rsa: key("piv-rsa") });
    expectConfined(result);
    expect(Number(result.status["Threads"])).toBeGreaterThan(1);
    expect(service.cards.signatures()).toBe(4);
  });

  test("I5: without a relay no reader is seen, and nothing of the card is asked", async () => {
    const before = service.cards.signatures();
    const result = await bench.run(pair({ connect: [] }));
    expect(result.failed?.step).toBe("load");
    expect(result.tokens).toEqual([]);
    expect(service.cards.signatures()).toBe(before);
  });

  test("I5: another socket of the machine is not reached by its path, though it is the card service's own", async () => {
    const result = await bench.run(
      pair({
        environment: [`PCSCLITE_CSOCK_NAME=${service.socket}`],
        connect: [{ listen: "/run/other", to: service.socket }],
      }),
    );
    expect(result.failed?.step).toBe("load");
    expect(result.tokens).toEqual([]);
  });
});
