import { describe, expect, test } from "vitest";
import { concatBytes, IronclawError, utf8 } from "../../policy/index.ts";
import { listTargets, readCorpus } from "./catalogue.ts";

/** More than the parts of any message together. */
const MOST = 18_000;
/** Escape sequences, a line feed, a mark that turns the direction of text: more of them than a message has room for. */
const HOSTILE = "\u001b]0;x\u0007\u202e\n".repeat(4000);
const MAX_INPUT = 100 * 1024;
const SAMPLES = 4;
const PLACES = 12;

/** Places at which a text or a name begins, else places all over the input. */
function placesOf(bytes: Uint8Array): readonly number[] {
  const quotes = [...bytes.keys()].filter((at) => bytes[at] === 0x22).map((at) => at + 1);
  const all = quotes.length > 0 ? quotes : [...bytes.keys()];
  return Array.from(
    { length: Math.min(PLACES, all.length) },
    (_, index) => all[Math.floor((index * all.length) / PLACES)] ?? 0,
  );
}

/** Valid inputs with the hostile text inside, as it is and as JSON writes it. */
function hostileInputs(name: string): readonly Uint8Array[] {
  const texts = [utf8(HOSTILE), utf8(JSON.stringify(HOSTILE).slice(1, -1))];
  const samples = [
    ...readCorpus(name)
      .filter(({ length }) => length < MAX_INPUT)
      .slice(0, SAMPLES),
    new Uint8Array(),
  ];
  return samples.flatMap((sample) =>
    [0, ...placesOf(sample)].flatMap((at) =>
      texts.map((text) => concatBytes(sample.subarray(0, at), text, sample.subarray(at))),
    ),
  );
}

async function messagesOf(
  run: (bytes: Uint8Array) => unknown,
  inputs: readonly Uint8Array[],
): Promise<readonly string[]> {
  const messages: string[] = [];
  for (const input of inputs) {
    try {
      await run(input);
    } catch (error) {
      messages.push(error instanceof Error ? error.message : `${error}`);
      if (error instanceof IronclawError) messages.push(error.hint ?? "");
    }
  }
  return messages;
}

describe("what a parser says of hostile input", () => {
  test.each(listTargets().filter(({ kind }) => kind === "javascript"))(
    "I10: $name: one line of bounded length, that no terminal acts upon",
    async ({ name, path }) => {
      const { run } = await import(path);
      for (const message of await messagesOf(run, hostileInputs(name))) {
        expect(message.length).toBeLessThanOrEqual(MOST);
        expect(message).not.toMatch(/[\p{C}\p{Zl}\p{Zp}]/u);
      }
    },
  );
});
