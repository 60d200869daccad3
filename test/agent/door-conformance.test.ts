import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { concatBytes, fromHex, toHex } from "../../policy/index.ts";
import { type BrokerFixture, startBroker } from "../support/broker-fixture.ts";
import { openRawClient, rawFrame } from "../support/rpc-client.ts";

// What the client generations send, byte by byte and not by this project's encoders: the frames of p11-kit 0.24 (version 0), 0.25 (1) and
// 0.25.6 and newer (2), with the forms in which they differ.
let broker: BrokerFixture;
beforeAll(async () => {
  broker = await startBroker();
});
afterAll(() => broker.close());

const INITIALIZE =
  "00000001 00000005 6179796179 01 00000029 505249564154452d474e4f4d452d4b455952494e472d504b435331312d50524f544f434f4c2d562d31 00 01 00000001 00";
const OPEN_SESSION = "0000000a 00000002 7575 0000000000000001 0000000000000004";
const PRIVATE = "0000000000000001";
const PUBLIC = "0000000000000002";
const SESSION = "0000000000000001";

/** Sends bodies one after the other on a connection of that version; the replies' bodies, as hex. */
async function exchange(scope: string, version: number, bodies: readonly string[]): Promise<string[]> {
  const client = await openRawClient(broker.socket(scope), null);
  const all = [INITIALIZE, OPEN_SESSION, ...bodies].map((body, index) =>
    rawFrame(0x10 + index, fromHex(body.replaceAll(" ", ""))),
  );
  await client.replay(concatBytes(Uint8Array.of(version), ...all));
  client.end();
  const stream = await client.closed();
  expect(stream[0]).toBe(Math.min(version, 2));
  const replies: string[] = [];
  for (let at = 1; at < stream.length; ) {
    const view = new DataView(stream.buffer, stream.byteOffset + at);
    expect([view.getUint32(0), view.getUint32(4)]).toEqual([0x10 + replies.length, 0]);
    const end = at + 12 + view.getUint32(8);
    replies.push(toHex(stream.slice(at + 12, end)));
    at = end;
  }
  return replies.slice(2);
}

const error = (rv: string) => `000000000000000175${rv.padStart(16, "0")}`;
const done = (call: string) => `${call.padStart(8, "0")}00000000`;

describe("mechanisms, by the answered version", () => {
  const PSS = "0000000000000250 0000000000000002 0000000000000020";
  it.each([
    [0, "00001041 ffffffff", `0000000d ${PSS}`],
    [1, "00001041 ffffffff", `0000000d ${PSS}`],
    [2, "00001041", `0000000d 01 ${PSS}`],
    [31, "00001041", `0000000d 01 ${PSS}`],
  ])("I6: version %i: C_SignInit, C_VerifyInit and C_DigestInit", async (version, ecdsa, pss) => {
    const init = (call: string, mechanism: string, key: string) =>
      `${call} 00000003 754d75 ${SESSION} ${mechanism} ${key}`;
    const digest = `00000025 00000002 754d ${SESSION} 00000250 ${version >= 2 ? "" : "ffffffff"}`;
    const ec = [init("0000002a", ecdsa, PRIVATE), init("00000030", ecdsa, PUBLIC), digest];
    expect(await exchange("release-signing", version, ec)).toEqual([done("2a"), done("30"), done("25")]);
    const rsa = [init("0000002a", pss, PRIVATE), init("00000030", pss, PUBLIC)];
    expect(await exchange("rsa-signing", version, rsa)).toEqual([done("2a"), done("30")]);
  });

  it.each([1, 2])("I6: version %i: a NULL mechanism ends the operation, and has nothing after it", async (version) => {
    const ecdsa = version >= 2 ? "00001041" : "00001041 ffffffff";
    const init = (mechanism: string) => `0000002a 00000003 754d75 ${SESSION} ${mechanism} ${PRIVATE}`;
    const final = `0000002d 00000003 756679 ${SESSION} 00000040`;
    const digest = (mechanism: string) => `00000025 00000002 754d ${SESSION} ${mechanism}`;
    const calls = [init(ecdsa), init("ffffffff"), final, digest("ffffffff")];
    expect(await exchange("release-signing", version, calls)).toEqual([
      done("2a"),
      done("2a"),
      error("91"),
      done("25"),
    ]);
  });

  it("I6: version 2: a mechanism whose parameters are said to be absent has none", async () => {
    const init = `0000002a 00000003 754d75 ${SESSION} 0000000d 00 ${PRIVATE}`;
    expect(await exchange("rsa-signing", 2, [init])).toEqual([error("71")]);
  });
});

describe("rooms, lengths and NULLs", () => {
  it.each([0, 1, 2])(
    "I6: version %i: a room of 0xffffffff is a buffer of no length, and nothing is made for it",
    async (version) => {
      const ecdsa = version >= 2 ? "00001041" : "00001041 ffffffff";
      const data = `01 00000020 ${"d1".repeat(32)}`;
      const sign = (room: string) => `0000002b 00000005 7561796679 ${SESSION} ${data} ${room}`;
      const init = `0000002a 00000003 754d75 ${SESSION} ${ecdsa} ${PRIVATE}`;
      const short = "0000002b 00000002 6179 00 00000040".replaceAll(" ", "");
      const replies = await exchange("release-signing", version, [
        init,
        sign("ffffffff"),
        sign("00000000"),
        sign("0000003f"),
      ]);
      expect(replies).toEqual([done("2a"), short, short, short]);
      const random = `00000040 00000003 756679 ${SESSION} ffffffff`;
      expect(await exchange("release-signing", version, [random])).toEqual([error("7")]);
    },
  );

  it("I6: a NULL PIN has its length on the wire, in C_Login and in C_LoginUser", async () => {
    const login = `00000012 00000004 75756179 ${SESSION} 0000000000000001 00 00000000`;
    const user = `00000042 00000006 757561796179 ${SESSION} 0000000000000001 00 00000000 01 00000001 61`;
    expect(await exchange("release-signing", 1, [login, user])).toEqual([done("12"), done("42")]);
  });

  it("I6: from version 1 on a query of an attribute array nests, and has no value here", async () => {
    const nested = "40000211 00000018 00000001 00000000 00000008";
    const query = `00000018 00000004 75756641 ${SESSION} ${PRIVATE} 00000001 ${nested}`;
    const reply = "00000018 00000003 614175 00000001 40000211 00 0000000000000012".replaceAll(" ", "");
    expect(await exchange("release-signing", 1, [query])).toEqual([reply]);
  });

  it("I6: calls of PKCS #11 3.0 that are not served are answered, in the versions that have them", async () => {
    const cancel = `00000043 00000002 7575 ${SESSION} 0000000000000800`;
    const final = `00000052 00000001 75 ${SESSION}`;
    expect(await exchange("release-signing", 2, [cancel, final])).toEqual([done("43"), error("54")]);
  });
});
