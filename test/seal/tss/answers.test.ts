import fc from "fast-check";
import { HANDLE_RANGE, PROPERTY, Tpm, TpmError, TpmFormatError } from "node-tpm2-tss";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type SoftwareTpm, startSwtpm } from "../../support/swtpm.ts";
import { openInterposer } from "../../support/tpm-interposer.ts";
import { nativeDirectory, openAt, readWrite, u8 } from "./fixture.ts";

// Somebody in the middle of the bus answers what no TPM would: without a session nothing proves an answer.

let swtpm: SoftwareTpm;
beforeAll(async () => {
  swtpm = await startSwtpm({ endorsement: "none" });
  await using tpm = await openAt(swtpm);
  await using index = await tpm.nvDefineSpace({ index: 0x01800001, attributes: readWrite, dataSize: 4 });
  await tpm.nvWrite(index, new Uint8Array(4));
});
afterAll(() => swtpm.stop());

/** Command codes of the answers that are forged. */
const CC = { nvRead: 0x14e, getCapability: 0x17a, getRandom: 0x17b, pcrRead: 0x17e } as const;

/** What a command answers: tag without sessions, size, success, parameters in hex. */
function answer(parameters: string): Buffer {
  const body = Buffer.from(parameters, "hex");
  const head = Buffer.from("80010000000000000000", "hex");
  head.writeUInt32BE(head.length + body.length, 2);
  return Buffer.concat([head, body]);
}

/** Runs `act` on a connection whose answers go through `rewrite`. */
async function through<T>(
  rewrite: (code: number, response: Buffer) => Buffer,
  act: (tpm: Tpm) => Promise<T>,
): Promise<T> {
  await using interposer = await openInterposer(swtpm, { rewrite });
  await using tpm = await Tpm.open({ tcti: interposer.tcti, nativeDirectory });
  return await act(tpm);
}

const forge = (forged: number, parameters: string) => (code: number, response: Buffer) =>
  code === forged ? answer(parameters) : response;

test.each<[string, number, string, (tpm: Tpm) => Promise<unknown>]>([
  ["no random bytes", CC.getRandom, "0000", (tpm) => tpm.getRandom(4)],
  ["more random bytes than asked for", CC.getRandom, "0005aaaaaaaaaa", (tpm) => tpm.getRandom(4)],
  ["a digest of the wrong size", CC.pcrRead, `0000000000000001000b0301000000000001${"0004aaaaaaaa"}`, readPcr],
  ["a bank nobody knows", CC.pcrRead, `00000000000000010099030100000000000${"1"}0004aaaaaaaa`, readPcr],
  ["a bank nobody knows among the active", CC.getCapability, "0000000005000000010099030000ff", (tpm) => tpm.pcrBanks()],
  ["handles for properties", CC.getCapability, "000000000100000000", (tpm) => tpm.properties(PROPERTY.permanent, 1)],
  [
    "the same handles again and again",
    CC.getCapability,
    "01000000010000000180000000",
    (tpm) => tpm.handles(HANDLE_RANGE.transient),
  ],
])("%s: a TpmFormatError", async (_, code, parameters, act) => {
  await expect(through(forge(code, parameters), act)).rejects.toThrow(TpmFormatError);
});

test("an answer for other PCRs than asked ends the reading, without a value", async () => {
  const other = `0000000000000001000b0302000000000001${"0020"}${"aa".repeat(32)}`;
  const values = await through(forge(CC.pcrRead, other), readPcr);
  expect(values.get("sha256")?.has(0) ?? false).toBe(false);
});

test("I10: any answer ends in a value, a TpmError or a TpmFormatError", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(fc.tuple(fc.nat(), u8Arbitrary), { minLength: 1, maxLength: 40 }), async (changes) => {
      const rewrite = (_: number, response: Buffer) => {
        const changed = Buffer.from(response);
        const [at, flip] = changes[response.length % changes.length] ?? [0, 0];
        // Not the size: the transport would wait for the rest.
        const place = 6 + (at % (changed.length - 6));
        changed.writeUInt8(changed.readUInt8(place) ^ flip, place);
        return changed;
      };
      const outcomes = await through(rewrite, async (tpm) =>
        Promise.allSettled([
          tpm.getRandom(8),
          readPcr(tpm),
          tpm.pcrBanks(),
          tpm.handles(HANDLE_RANGE.nvIndex),
          tpm.properties(0x100, 8),
          tpm.readClock(),
          readIndex(tpm),
          tpm.pcrEvent(16, u8(1)),
        ]),
      ).catch((cause: unknown) => [{ status: "rejected", reason: cause }] as const);
      for (const outcome of outcomes) {
        if (outcome.status === "fulfilled") continue;
        expect(outcome.reason instanceof TpmError || outcome.reason instanceof TpmFormatError, outcome.reason).toBe(
          true,
        );
      }
    }),
    { numRuns: 60 },
  );
});

const u8Arbitrary = fc.integer({ min: 1, max: 255 });

function readPcr(tpm: Tpm) {
  return tpm.pcrRead([{ bank: "sha256", pcrs: [0] }]);
}

async function readIndex(tpm: Tpm): Promise<Uint8Array> {
  await using index = await tpm.trFromTpmPublic(0x01800001);
  return await tpm.nvRead(index);
}
