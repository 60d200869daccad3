import { join } from "node:path";
import { sha256Hex, utf8 } from "../../policy/index.ts";
import { makeDemoToken } from "../../vm-images/token/token.ts";
import { type CountingToken, makeCountingToken } from "./counting-token.ts";
import { BENCH_MODULE, type PolicyDraft, type Provisioning } from "./launch-documents.ts";
import type { LaunchBench } from "./launch-fixture.ts";

/** Long and odd, so that a search finds nothing else. */
export const SECOND_PIN = "second-pin-3390-hawkweed";

/** Another token of the bench's library, with a PIN of its own. */
export interface SecondToken {
  readonly label: "second";
  readonly serial: string;
  /** Of its key `release-ec`. */
  readonly spki: Uint8Array;
  readonly counter: CountingToken | null;
}

type Bench = Pick<LaunchBench, "directory" | "token">;

/** Makes it in the directory of the bench's token, of the same kind. */
export async function addSecondToken({ directory, token }: Bench): Promise<SecondToken> {
  const label = "second";
  if (token.counter === null) {
    const { serial, keys } = await makeDemoToken(directory, label, utf8(SECOND_PIN));
    return { label, serial, spki: keys["release-ec"] ?? new Uint8Array(), counter: null };
  }
  const options = { pin: SECOND_PIN, label, serial: "C0UNT1NG0002", directory: join(token.directory, "1") };
  const counter = makeCountingToken({ directory }, options);
  return { label, serial: counter.serial, spki: counter.spki, counter };
}

export interface TwoTokens {
  readonly secondPin?: string;
  readonly policy?: (draft: PolicyDraft) => void;
  readonly generation?: number;
}

/** Both tokens in one policy, each key on its own; the second one's is `second-ec`, its PIN the credential `second-pin`. */
export function withBoth(
  { token }: Bench,
  { label, serial, spki }: SecondToken,
  { secondPin = SECOND_PIN, policy, generation = 1 }: TwoTokens = {},
): Provisioning {
  return {
    policy: (draft) => {
      draft.tokens = { ...draft.tokens, [label]: { module: BENCH_MODULE, label, serial, pin: "second-pin" } };
      const first = Object.entries(draft.keys).map(([name, key]) => [name, { ...key, token: token.label }] as const);
      const second = { spki: `sha256:${sha256Hex(spki)}`, does: "sign", token: label } as const;
      draft.keys = { ...Object.fromEntries(first), "second-ec": second };
      policy?.(draft);
    },
    credentials: [
      { label: { name: "second-pin", kind: "pin", tokenSerial: serial, generation }, secret: utf8(secondPin) },
    ],
  };
}
