import type { SignMechanism, Token, UnwrapKeyRequest } from "../../../agent/broker/index.ts";
import { AgentError } from "../../../agent/errors.ts";
import { sha256Hex, toHex, utf8 } from "../../../policy/index.ts";
import type { Asked, Laws } from "./laws.ts";
import { LIMITS, LOWEST_MODULUS } from "./scopes.ts";
import { Waiting } from "./waiting.ts";

/** `gone`: the key is on no shim any more. `short`: a result that is none. */
export type Outcome = "good" | "refused" | "gone" | "short";

type Does = "sign" | "decrypt" | "unwrap";

const PLACES = 12;

/** What the token makes of an input, in hexadecimal: it shows the key and the input. */
export function resultOf(place: string, does: Does, data: string): string {
  if (does === "unwrap") return "";
  const digest = sha256Hex(utf8(`${place} ${data}`));
  return does === "sign" ? `${digest}${digest}` : digest;
}

/** A token that answers when the run says so, and is asked for nothing but what the log has. */
export class StagedToken implements Token {
  readonly answering = new Waiting<Outcome>("good");
  readonly #laws: Laws;
  /** Why a result may not leave, as things are now. */
  readonly #takenAway: (asked: Asked) => string | null;
  readonly #now: () => number;
  /** Whoever has one wipes it. */
  readonly plaintexts: Uint8Array[] = [];
  /** How often it was asked. */
  asked = 0;
  #reserved = 0;
  #failed = 0;

  constructor(laws: Laws, takenAway: (asked: Asked) => string | null, now: () => number) {
    this.#laws = laws;
    this.#takenAway = takenAway;
    this.#now = now;
  }

  get reserved(): number {
    return this.#reserved;
  }

  reserve(): Disposable | null {
    if (this.#reserved >= PLACES) return null;
    this.#reserved += 1;
    return {
      [Symbol.dispose]: () => {
        this.#reserved -= 1;
      },
    };
  }

  sign({ key, mechanism, data }: { key: string; mechanism: SignMechanism; data: Uint8Array }): Promise<Uint8Array> {
    this.#laws.hold(mechanism.type === "CKM_ECDSA" && data.length === 32, "token: is asked to sign no SHA-256");
    return this.#answer(key, "sign", data);
  }

  decrypt({ key, data }: { key: string; data: Uint8Array }): Promise<Uint8Array> {
    this.#expectBlock(data);
    return this.#answer(key, "decrypt", data);
  }

  async unwrap({ key, wrapped, place }: UnwrapKeyRequest): Promise<void> {
    this.#expectBlock(wrapped);
    this.#laws.hold(place === "intake/restored", "token: lets a key in at another place");
    await this.#answer(key, "unwrap", wrapped);
  }

  #expectBlock(data: Uint8Array): void {
    const isBlock = data.length === 256 && (data[0] ?? 0xff) < LOWEST_MODULUS;
    this.#laws.hold(isBlock, "token: is asked for what is no block of the key");
  }

  async #answer(place: string, does: Does, data: Uint8Array): Promise<Uint8Array> {
    this.asked += 1;
    const asked = this.#ask(place, toHex(data));
    this.#laws.hold(this.#reserved > 0, "token: is asked without a place");
    const outcome = await new Promise<Outcome>((resolve) => this.answering.wait(resolve));
    if (asked !== undefined) this.#settle(asked, outcome, does);
    this.#countFailure(place, outcome);
    if (outcome === "gone") throw new AgentError("ERR_KEY_GONE", "key");
    if (outcome === "refused") throw new AgentError("ERR_SHIM_REFUSED", "shim");
    const result = Uint8Array.fromHex(resultOf(place, does, toHex(data)));
    const bytes = outcome === "short" && does === "sign" ? result.slice(1) : result;
    if (does === "decrypt") this.plaintexts.push(bytes);
    return bytes;
  }

  #ask(place: string, data: string): Asked | undefined {
    const asked = this.#laws.asked.get(data);
    this.#laws.hold(asked !== undefined, "token: is asked what no client has asked");
    if (asked === undefined) return undefined;
    const own = asked.key === "restored" ? "intake/restored" : asked.key;
    this.#laws.hold(place === own, "token: is asked for another key");
    this.#laws.hold(asked.isRecorded, "token: is asked before it is recorded");
    this.#laws.hold(!asked.isAtToken, "token: is asked twice for one request");
    this.#laws.hold(this.#takenAway(asked) === null, "token: is asked for what was taken away since its record");
    asked.isAtToken = true;
    asked.crowd.size += 1;
    this.#laws.hold(asked.crowd.size <= asked.crowd.most, "token: is asked for more of one connection than inFlight");
    return asked;
  }

  #settle(asked: Asked, outcome: Outcome, does: Does): void {
    asked.hasResult = true;
    if (asked.isAnswered) asked.crowd.size -= 1;
    asked.forbidden ??= this.#takenAway(asked);
    if (outcome === "refused" || outcome === "gone") asked.forbidden ??= "that the token has not given";
    if (outcome === "short" && does === "sign") asked.forbidden ??= "of a wrong length";
  }

  #countFailure(place: string, outcome: Outcome): void {
    if (place !== "vault" || (outcome !== "refused" && outcome !== "gone")) return;
    this.#failed += 1;
    const { burst, perHour } = LIMITS.failures;
    const most = burst + (this.#now() * perHour) / 3_600_000;
    this.#laws.hold(this.#failed <= most + 1e-6, "token: more of one key fails than its budget holds");
  }
}
