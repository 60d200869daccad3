import { createHash, type KeyObject, verify } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import { type OpenDoor, openDoor } from "./doors.ts";
import type { Findings } from "./findings.ts";
import { LIMITS, PAUSE, type Workload } from "./plan.ts";

/** An operation that takes longer was held up by somebody else, in milliseconds: nobody waits for his own so long. */
const LONGEST = 10_000;
/** Operations of one connection. */
const EACH = 40;
/** Once in so many operations it reaches for what is not its own. */
const REACH_EVERY = 20;

export interface WorkloadPlace {
  readonly path: string;
  readonly publicKey: KeyObject;
  /** Key of another scope. */
  readonly otherKey: string;
}

/** Signs until the time is over. Every signature has to be its own key's, over its own message. */
export async function runWorkload(
  workload: Workload,
  place: WorkloadPlace,
  findings: Findings,
  until: number,
): Promise<void> {
  const { scope, kind } = workload;
  const began = performance.now();
  const asked = { count: 0, refused: 0 };
  const bucket = new LeastBucket(LIMITS[kind].rate);
  try {
    while (performance.now() < until) {
      const door = await openDoor(workload, place.path);
      await useDoor(workload, { door, asked, bucket, until }, place, findings);
      await door.close();
    }
  } catch (error) {
    findings.violated(`${scope} (${workload.door}): ${error instanceof Error ? error.message : String(error)}`);
  }
  const given = findings.signed[scope] ?? 0;
  const why = judgeLimits(kind, { given, ...asked, seconds: (performance.now() - began) / 1000 });
  if (why !== "") findings.violated(`${scope}: ${why}`);
}

interface Use {
  readonly door: OpenDoor;
  readonly asked: { count: number; refused: number };
  readonly bucket: LeastBucket;
  readonly until: number;
}

async function useDoor(
  { scope, kind }: Workload,
  { door, asked, bucket, until }: Use,
  { publicKey, otherKey }: WorkloadPlace,
  findings: Findings,
): Promise<void> {
  for (let turn = 0; turn < EACH && performance.now() < until; turn++) {
    const message = Buffer.from(`${scope} ${asked.count}`);
    const before = performance.now();
    const signature = await door.sign(createHash("sha256").update(message).digest());
    const after = performance.now();
    const took = after - before;
    const least = bucket.asked(before, after, signature !== null);
    asked.count += 1;
    if (took > LONGEST) findings.violated(`${scope}: held up for ${Math.round(took)} ms`);
    if (signature === null) {
      asked.refused += 1;
      if (kind === "greedy" && least > 1.1)
        findings.violated(`${scope}: refused with ${least} tokens: somebody else had them`);
    } else if (verify("sha256", message, { key: publicKey, dsaEncoding: "ieee-p1363" }, signature))
      findings.signedIn(scope);
    else findings.violated(`${scope}: a signature of another key, or of another message`);
    if (turn % REACH_EVERY === 0) {
      const got = await door.reach({ key: otherKey });
      if (got !== "") findings.violated(`${scope}: got what is not its own: ${got}`);
    }
    await delay(PAUSE[kind]);
  }
}

/** What its limits gave it, against what they say; empty when that fits. */
function judgeLimits(
  kind: Workload["kind"],
  got: { readonly given: number; readonly count: number; readonly refused: number; readonly seconds: number },
): string {
  const { rate, budget } = LIMITS[kind];
  if (kind === "modest") return got.refused === 0 ? "" : `refused ${got.refused} times below its rate`;
  const most = kind === "counted" ? (budget?.operations ?? 0) : rate.burst + (got.seconds * rate.perMinute) / 60 + 1;
  if (got.given > most) return `${got.given} signatures, its limit is ${most}`;
  const short = kind === "counted" && got.refused > 0 && got.given < most;
  return short ? `${got.given} signatures of ${most}: somebody else had the others` : "";
}

/** What a scope's bucket holds at least, as far as its workload can tell: it knows between which two moments it was decided, not when. */
export class LeastBucket {
  readonly #perMs: number;
  readonly #burst: number;
  #tokens: number;
  #decided = Number.POSITIVE_INFINITY;

  constructor({ perMinute, burst }: { readonly perMinute: number; readonly burst: number }) {
    this.#perMs = perMinute / 60_000;
    this.#burst = burst;
    this.#tokens = burst;
  }

  /** Before the answer to what was asked and answered at these moments, in milliseconds; once it is given, one less. */
  asked(from: number, to: number, given: boolean): number {
    const passed = Math.max(0, from - this.#decided);
    const least = Math.min(this.#burst, this.#tokens + passed * this.#perMs);
    this.#tokens = Math.max(0, given ? least - 1 : least);
    this.#decided = to;
    return least;
  }
}
