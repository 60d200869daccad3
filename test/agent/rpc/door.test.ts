import { constants, createHash, publicEncrypt, verify } from "node:crypto";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { OPS } from "../../../agent/client/protocol.ts";
import { DIGESTS } from "../../../policy/index.ts";
import {
  type BrokerFixture,
  type BrokerFixtureOptions,
  INTRUDER_PEER,
  SIGNER_PEER,
  softwareKeys,
  startBroker,
  tokenRefuses,
} from "../../support/broker-fixture.ts";
import { DIGEST, decryptRequest, NativeClient, request, signRequest, u32 } from "../../support/native-client.ts";
import { sshKeyLine } from "../../support/policy-document.ts";

const keys = softwareKeys();
let broker: BrokerFixture;
const begin = async (options: BrokerFixtureOptions = {}) => {
  broker = await startBroker({ ...options, publicKeys: keys.publicKeys, token: { ...keys, ...options.token } });
};
const open = (scope = "release-signing") => NativeClient.open(broker.socket(scope));
const publicKey = (name: string) => {
  const key = Buffer.from(keys.publicKeys.get(name)?.spki ?? []);
  return { key, format: "der", type: "spki" } as const;
};
const steps = () => broker.records().map(({ operation, decision, step }) => `${operation} ${decision} ${step}`);

afterEach(() => broker.close());

describe("an operation", () => {
  beforeEach(() => begin());

  test("I7: takes one round trip, and the parameters that the policy fixes", async () => {
    const client = await open("rsa-signing");
    const message = new TextEncoder().encode("a message");
    const digest = Uint8Array.from(createHash("sha256").update(message).digest());
    client.send(
      signRequest(1, { key: "release-rsa", mechanism: 0x1, input: digest }),
      signRequest(2, { key: "release-rsa", mechanism: 0x40, form: "message", input: message }),
    );
    for (const { reason, payload } of await client.replies(2)) {
      expect(reason).toBe("done");
      expect(verify("sha256", message, publicKey("release-rsa"), payload)).toBe(true);
    }
    expect(broker.requests.map(({ mechanism }) => mechanism.type)).toEqual(["CKM_RSA_PKCS", "CKM_RSA_PKCS"]);
    expect(broker.requests[0]?.data).toEqual(Uint8Array.from([...DIGESTS.sha256.digestInfoPrefix, ...digest]));
  });

  test("I7: that decrypts gives the plaintext, and a raw block of the modulus' length", async () => {
    const padding = constants.RSA_PKCS1_OAEP_PADDING;
    const ciphertext = publicEncrypt({ ...publicKey("vault"), padding, oaepHash: "sha256" }, Buffer.from("a secret"));
    const vault = await open("vault");
    vault.send(decryptRequest(7, "vault", 0x9, ciphertext));
    expect(await vault.reply()).toMatchObject({
      id: 7,
      reason: "done",
      payload: Uint8Array.from(Buffer.from("a secret")),
    });
    const raw = await open("raw");
    raw.send(decryptRequest(8, "vault", 0x3, ciphertext));
    expect((await raw.reply()).payload.length).toBe(256);
  });

  test.each([
    ["a digest where the agent hashes", { mechanism: 0x1044, form: "digest" }],
    ["a message where it does not", { form: "message" }],
    ["a block for an EC key", { form: "block" }],
  ] as const)("I7: over %s is refused before anything is asked", async (_what, fields) => {
    const client = await open();
    client.send(signRequest(1, fields));
    expect(await client.reply()).toMatchObject({ id: 1, reason: "malformed-input" });
    expect([broker.requests.length, steps()]).toEqual([0, []]);
  });
});

describe("a refusal", () => {
  test.each([
    ["a key that the scope does not show", signRequest(1, { key: "release-rsa" }), "not-allowed", "key"],
    ["a key that does something else", decryptRequest(1, "release-ec", 0x1041, DIGEST), "not-allowed", "operation"],
    ["a mechanism that is not listed", signRequest(1, { mechanism: 0x1 }), "not-allowed", "mechanism"],
    ["a mechanism that nobody knows", signRequest(1, { mechanism: 0xffff_fffe }), "not-allowed", "mechanism"],
    ["a digest of another length", signRequest(1, { input: new Uint8Array(20) }), "malformed-input", "parameters"],
  ])("I7: %s: one word for the caller, the step for the log", async (_what, bytes, reason, step) => {
    await begin();
    const client = await open();
    client.send(bytes);
    expect(await client.reply()).toEqual({ id: 1, reason, payload: new Uint8Array() });
    expect(broker.records().map((record) => record.step)).toEqual([step]);
  });

  test("I7: by rate says after how many milliseconds it may be allowed, and then it is", async () => {
    await begin({ change: ({ scopes }) => Object.assign(scopes[0] ?? {}, { rate: { perMinute: 60, burst: 1 } }) });
    const client = await open();
    client.send(signRequest(1), signRequest(2));
    const replies = await client.replies(2);
    const refused = replies.find(({ reason }) => reason === "rate");
    expect(replies.map(({ reason }) => reason).sort()).toEqual(["done", "rate"]);
    expect(refused?.payload).toEqual(u32(1000));
    broker.time += 500;
    client.send(signRequest(3));
    expect(await client.reply()).toEqual({ id: 3, reason: "rate", payload: u32(500) });
    broker.time += 500;
    client.send(signRequest(4));
    expect((await client.reply()).reason).toBe("done");
  });

  test("I7: for want of approvals names the pending request, and says nothing of who approved", async () => {
    await begin({
      change: (document) => {
        document["approvers"] = { alice: { key: sshKeyLine("A"), notFor: [] } };
        Object.assign(document.scopes[0] ?? {}, {
          approvals: { required: 1, of: ["alice"], for: "operation", window: "PT15M" },
        });
      },
      parts: { approvals: { approvedBy: () => ({ id: "pending-7", approvers: [] }), use: () => undefined } },
    });
    const client = await open();
    client.send(signRequest(1));
    const { reason, payload } = await client.reply();
    expect([reason, Buffer.from(payload).toString("latin1")]).toEqual(["approval-needed", "\x09pending-7"]);
    expect(steps()).toEqual(["sign deny approvals"]);
  });

  test("I7: outside the scope's validity, and with its operations used up, has a word of its own", async () => {
    await begin({
      change: ({ scopes }) =>
        Object.assign(scopes[0] ?? {}, {
          valid: { from: "2026-11-26T11:00:00Z", until: "2026-11-26T13:00:00Z" },
          budget: { operations: 1 },
        }),
    });
    const client = await open();
    client.send(signRequest(1));
    expect((await client.reply()).reason).toBe("done");
    client.send(signRequest(2));
    expect((await client.reply()).reason).toBe("budget");
    broker.wallTime += 3_600_000;
    client.send(signRequest(3));
    expect((await client.reply()).reason).toBe("outside-validity");
  });

  test("I7: of a ciphertext is one and the same, whatever the token has against it", async () => {
    for (const rv of [0x5n, 0x40n, 0x41n, 0x21n]) {
      await begin({ token: { decrypt: () => Promise.reject(tokenRefuses(rv)) } });
      const client = await open("legacy");
      client.send(decryptRequest(1, "vault", 0x1, new Uint8Array(256).fill(1)));
      expect(await client.reply()).toEqual({ id: 1, reason: "bad-ciphertext", payload: new Uint8Array() });
      if (rv !== 0x21n) await broker.close();
    }
  });

  test("I7 I8: when the token fails, or the record cannot be written, says which of the two", async () => {
    await begin({ token: { sign: () => Promise.reject(new Error("gone")) } });
    const client = await open();
    client.send(signRequest(1));
    expect((await client.reply()).reason).toBe("token-error");
    await broker.close();
    const audit = { append: () => Promise.reject(new Error("full")), close: () => undefined };
    await begin({ audit: audit as never });
    const other = await open();
    other.send(signRequest(1));
    expect((await other.reply()).reason).toBe("audit");
    expect(broker.requests).toEqual([]);
  });

  test("I10: when too many requests wait for the token is one that may be allowed soon", async () => {
    await begin({ token: { reserve: () => null } });
    const client = await open();
    client.send(signRequest(1));
    expect((await client.reply()).reason).toBe("busy");
  });
});

describe("a session", () => {
  test("I6: ends with its lifetime and its idle time, and another one is opened on the same connection", async () => {
    await begin({ change: ({ scopes }) => Object.assign(scopes[0] ?? {}, { lifetime: "PT60S", idle: "PT10S" }) });
    const client = await open();
    const outcome = async (session: number) => {
      client.send(signRequest(9, { session }));
      return (await client.reply()).reason;
    };
    for (let second = 0; second < 60; second += 5) {
      expect(await outcome(1)).toBe("done");
      broker.time += 5000;
    }
    expect(await outcome(1)).toBe("expired");
    client.send(request(1, OPS.open));
    expect(await client.reply()).toEqual({ id: 1, reason: "done", payload: u32(2) });
    expect(await outcome(2)).toBe("done");
    broker.time += 10_000;
    expect(await outcome(2)).toBe("expired");
    expect(steps().filter((step) => step.includes("session"))).toEqual([
      "session deny session",
      "session deny session",
    ]);
  });

  test("I6: is its connection's own; a number that is closed, or was never given, is expired", async () => {
    await begin();
    const [client, other] = [await open(), await open()];
    client.send(request(1, OPS.open), request(2, OPS.close, u32(1)));
    expect(await client.replies(2)).toMatchObject([{ payload: u32(2) }, { reason: "done" }]);
    client.send(signRequest(3, { session: 1 }));
    other.send(signRequest(3, { session: 2 }));
    expect((await client.reply()).reason).toBe("expired");
    expect((await other.reply()).reason).toBe("expired");
    expect(broker.requests).toEqual([]);
  });

  test("I10: there are 64 on a connection, and room again when one is closed", async () => {
    await begin();
    const client = await open();
    client.send(...Array.from({ length: 64 }, (_, index) => request(index + 1, OPS.open)));
    const replies = await client.replies(64);
    expect(replies.filter(({ reason }) => reason === "done").length).toBe(63);
    expect(replies.at(-1)).toMatchObject({ id: 64, reason: "busy" });
    client.send(request(1, OPS.close, u32(5)), request(2, OPS.open));
    expect(await client.replies(2)).toMatchObject([{ reason: "done" }, { reason: "done", payload: u32(65) }]);
  });
});

describe("a peer that is not the caller", () => {
  test.each([
    ["another uid", INTRUDER_PEER],
    ["another program", { ...SIGNER_PEER, exe: `sha256:${"77".repeat(32)}` as const }],
    ["one that cannot be identified", null],
  ])("I6 I8: %s gets one word to everything, and each attempt is recorded", async (_who, peer) => {
    await begin();
    broker.peer = peer;
    const client = await NativeClient.greeted(broker.socket("release-signing"));
    client.send(request(1, OPS.ping), request(2, OPS.hello), request(3, 200), signRequest(4), request(5, OPS.unwrap));
    const replies = await client.replies(6);
    expect(replies.map(({ id }) => id)).toEqual([0, 1, 2, 3, 4, 5]);
    for (const { reason, payload } of replies) expect([reason, payload.length]).toEqual(["not-allowed", 0]);
    expect(steps()).toEqual(["connect deny caller", "sign deny caller", "unwrap deny caller"]);
    client.send(request(6, OPS.ping, new Uint8Array(16_380)));
    expect(await client.closed()).toEqual(new Uint8Array());
  });
});
