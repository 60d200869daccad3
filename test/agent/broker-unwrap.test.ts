import { dirname } from "node:path";
import { afterEach, expect, test } from "vitest";
import { connect, type RefusedError } from "../../agent/client/index.ts";
import { sha256Hex, toBase64 } from "../../policy/index.ts";
import { type BrokerFixture, softwareKeys, startBroker, tokenRefuses } from "../support/broker-fixture.ts";

// Failed unwraps at the broker; unwrap.test.ts has real shims.
const keys = softwareKeys();
const WRAPPED = new Uint8Array(256).fill(1);
const BURST = 2;
const MINUTE = 60_000;

let broker: BrokerFixture;
afterEach(() => broker.close());

/** A scope that lets one blob in, by a token that does what `unwrap` says; how often it was asked. */
async function start(unwrap: () => Promise<void>): Promise<{ asked: number }> {
  const seen = { asked: 0 };
  const [kek, arriving] = [keys.publicKeys.get("vault"), keys.publicKeys.get("release-ec")];
  if (kek === undefined || arriving === undefined) throw new TypeError("a key is missing");
  const rule = {
    ...{ key: "restored", publicKey: toBase64(arriving.spki), does: "sign", where: "session", label: "restored" },
    ...{ mechanisms: ["CKM_ECDSA"], blob: `sha256:${sha256Hex(WRAPPED)}` },
  };
  broker = await startBroker({
    publicKeys: new Map([["vault", kek]]),
    token: {
      unwrap: async () => {
        seen.asked += 1;
        await unwrap();
      },
    },
    change: (document) => {
      document.keys = { vault: { spki: `sha256:${sha256Hex(kek.spki)}`, does: "unwrap" } };
      document.scopes = [
        {
          ...{ name: "restore", caller: "release-signer", key: "vault", audit: "durable", unwraps: [rule] },
          ...{ mechanisms: [{ type: "CKM_RSA_PKCS_OAEP", digest: "sha256" }] },
          failures: { perHour: 60, burst: BURST },
        },
      ];
    },
  });
  return seen;
}

/** What the client is told of so many unwraps, one after the other. */
async function unwraps(count: number): Promise<readonly string[]> {
  await using client = await connect({ scope: "restore", directory: dirname(broker.socket("restore")) });
  await using session = client.session();
  const said: string[] = [];
  for (let index = 0; index < count; index += 1)
    said.push(
      await session.unwrap({ mechanism: "CKM_RSA_PKCS_OAEP", arriving: "restored", blob: WRAPPED }).then(
        () => "done",
        ({ reason }: RefusedError) => reason,
      ),
    );
  return said;
}

const decisions = () => broker.records().map(({ decision, step }) => step ?? decision);

test("I7: a blob that the token refuses spends one failure of its key, and when none is left the token is not asked any more", async () => {
  const seen = await start(async () => {
    throw tokenRefuses(0x110n);
  });
  expect(await unwraps(BURST + 2)).toEqual(["bad-ciphertext", "bad-ciphertext", "budget", "budget"]);
  expect(seen.asked).toBe(BURST);
  broker.time += MINUTE;
  expect(await unwraps(2)).toEqual(["bad-ciphertext", "budget"]);
  expect(seen.asked).toBe(BURST + 1);
  expect(decisions()).toEqual(["allow", "allow", "budget", "budget", "allow", "budget"]);
});

test("I7: however many blobs are sent at once, the token refuses no more of them than the budget holds", async () => {
  const seen = await start(async () => {
    await new Promise(setImmediate);
    throw tokenRefuses(0x110n);
  });
  const said = (await Promise.all(Array.from({ length: 6 }, () => unwraps(1)))).flat();
  expect(said.sort()).toEqual([...Array(BURST).fill("bad-ciphertext"), ...Array(4).fill("budget")]);
  expect(seen.asked).toBe(BURST);
});

test("I7: an unwrap that succeeds spends none, and the same blob again is answered without the token", async () => {
  const seen = await start(async () => undefined);
  expect(await unwraps(BURST + 2)).toEqual(Array(BURST + 2).fill("done"));
  expect(seen.asked).toBe(1);
});
