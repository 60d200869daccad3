import { readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  encodeForm,
  encodeInput,
  encodeRequest,
  encodeUse,
  readHello,
  readRefusal,
} from "../../../agent/client/messages.ts";
import { DOES, FORMS, MECHANISMS, nameOf, OPS, REASONS } from "../../../agent/client/protocol.ts";
import { ReplySplitter } from "../../../agent/client/replies.ts";
import { encodeGreeting, encodeReply, RequestSplitter } from "../../../agent/rpc/frames.ts";
import { parseRequest } from "../../../agent/rpc/requests.ts";
import { concatBytes, MECHANISMS as POLICY_MECHANISMS, toHex, utf8 } from "../../../policy/index.ts";
import { GREETING, request, signRequest, u32 } from "../../support/native-client.ts";

const document = readFileSync(join(import.meta.dirname, "../../../agent/RPC.md"), "utf8");
const unlimited = { take: () => undefined, give: () => undefined };
const name = fc.stringMatching(/^[ -~]{0,40}$/);
const input = fc.uint8Array({ maxLength: 100 });
const mechanism = fc.constantFrom(...(Object.keys(MECHANISMS) as (keyof typeof MECHANISMS)[]));

/** Cuts a stream into pieces of these sizes. */
function pieces(stream: Uint8Array, sizes: readonly number[]): readonly Uint8Array[] {
  const cut: Uint8Array[] = [];
  let at = 0;
  for (const size of [...sizes, stream.length]) {
    cut.push(stream.slice(at, at + size));
    at += size;
  }
  return cut;
}

describe("requests", () => {
  test("I10: what the client writes, in pieces of any size, is what the door reads", () => {
    const signs = fc.record({
      session: fc.nat(),
      key: name,
      mechanism,
      form: fc.constantFrom(...(Object.keys(FORMS) as (keyof typeof FORMS)[])),
      input,
    });
    fc.assert(
      fc.property(
        fc.array(signs, { maxLength: 5 }),
        fc.array(fc.integer({ min: 1, max: 30 }), { maxLength: 60 }),
        (asked, sizes) => {
          const frames = asked.map(({ session, key, mechanism: type, form, input: bytes }, index) =>
            encodeRequest(
              index + 1,
              "sign",
              concatBytes(u32(session), encodeUse(key, type), encodeForm(form), encodeInput(bytes)),
            ),
          );
          const splitter = new RequestSplitter(1000, unlimited);
          const read: unknown[] = [];
          let version: number | null = null;
          for (const piece of pieces(concatBytes(GREETING, ...frames), sizes)) {
            splitter.push(piece);
            version ??= splitter.greeting();
            if (version === null) continue;
            for (let frame = splitter.next(); frame !== null; frame = splitter.next()) read.push(parseRequest(frame));
          }
          expect(version).toBe(1);
          expect(read).toEqual(asked.map((one) => ({ ...one, kind: "sign", mechanism: MECHANISMS[one.mechanism] })));
        },
      ),
    );
  });

  test("I10: the memory that requests take is given back, whether they are taken or cut off", () => {
    let held = 0;
    const memory = {
      take: (bytes: number) => {
        held += bytes;
      },
      give: (bytes: number) => {
        held -= bytes;
      },
    };
    const splitter = new RequestSplitter(1000, memory);
    splitter.push(concatBytes(GREETING, request(1, OPS.ping), request(2, OPS.close, u32(1)).slice(0, -1)));
    expect(splitter.greeting()).toBe(1);
    const first = splitter.next();
    expect([first?.size, splitter.next()]).toEqual([5, null]);
    // The first one's payload, and at least what is there of the second one.
    expect(held).toBeGreaterThanOrEqual(5 + 12);
    memory.give(first?.size ?? 0);
    splitter.push(Uint8Array.of(0));
    memory.give(splitter.next()?.size ?? 0);
    // Everything was taken: an idle connection has no memory.
    expect(held).toBe(0);
    splitter.push(u32(900));
    expect([splitter.next(), held]).toEqual([null, 900]);
    splitter.close();
    splitter.close();
    expect(held).toBe(0);
  });

  test("I7: have the bytes of RPC.md", () => {
    expect(toHex(signRequest(0x0102, { input: Uint8Array.of(0xaa, 0xbb) }))).toBe(
      `0000001f0000010204${"00000001"}0a${toHex(utf8("release-ec"))}00001041${"01"}00000002aabb`,
    );
    expect(toHex(encodeRequest(7, "cancel", u32(5)))).toBe("00000009000000070800000005");
    expect(toHex(encodeReply(7, REASONS.rate, u32(1000)))).toBe("000000090000000707000003e8");
    expect(toHex(encodeGreeting(255))).toBe("4952504301");
  });
});

describe("replies", () => {
  test("I4 I10: are read from pieces of any size, and of what was read nothing is left where it lay", () => {
    const replies = fc.array(fc.record({ id: fc.nat(), reason: fc.nat(255), payload: input }), { maxLength: 5 });
    fc.assert(
      fc.property(replies, fc.array(fc.integer({ min: 1, max: 30 }), { maxLength: 60 }), (sent, sizes) => {
        const splitter = new ReplySplitter();
        const stream = concatBytes(
          GREETING,
          ...sent.map(({ id, reason, payload }) => encodeReply(id, reason, payload)),
        );
        const read: unknown[] = [];
        const cut = pieces(stream, sizes);
        for (const piece of cut) {
          splitter.push(piece);
          for (let reply = splitter.next(); reply !== null; reply = splitter.next()) read.push(reply);
        }
        expect(read).toEqual(sent);
        for (const piece of cut) expect(piece).toEqual(new Uint8Array(piece.length));
      }),
    );
  });

  test("I10: a HELLO that ends early or late, and a refusal with more than its reason has, are not read", () => {
    const hello = concatBytes(Uint8Array.of(1), utf8("s"), u32(1), u32(1000), Uint8Array.of(0, 4, 0, 64, 0));
    expect(readHello(hello)).toMatchObject({ scope: "s", session: 1, inFlight: 4, sessions: 64, keys: [] });
    for (let length = 0; length < hello.length; length += 1)
      expect(() => readHello(hello.slice(0, length))).toThrow("agent's reply");
    expect(() => readHello(concatBytes(hello, u32(0)))).toThrow("trailing");
    expect(readRefusal({ reason: REASONS.rate, payload: u32(9) })).toMatchObject({ reason: "rate", retryAfter: 9 });
    expect(() => readRefusal({ reason: REASONS.frozen, payload: u32(9) })).toThrow("trailing");
    expect(readRefusal({ reason: 200, payload: u32(9) })).toMatchObject({ reason: "unknown" });
  });
});

describe("RPC.md", () => {
  test.each(Object.entries(REASONS))("I7: has the reason %s as %i", (reason, number) => {
    expect(document).toMatch(new RegExp(`^\\| ${number} \`${reason}\` \\|`, "m"));
  });

  test.each(Object.entries(OPS))("has the op %s as %i", (op, number) => {
    expect(document).toMatch(new RegExp(`^\\| ${number} ${op.toUpperCase()} \\|`, "m"));
  });

  test("I7: the client's mechanisms are those that a policy can name, by their PKCS #11 numbers", () => {
    expect(Object.entries(MECHANISMS).sort()).toEqual(
      POLICY_MECHANISMS.map(({ type, value }): [string, number] => [type, Number(value)]).sort(),
    );
    expect(nameOf(DOES, 9)).toBe(null);
  });
});
