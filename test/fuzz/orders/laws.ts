import { BrokenProperty } from "../property.ts";

/** What a client has asked, and how far it came. Its input is like no other's, so log and token can say whose request they see. */
export interface Asked {
  readonly scope: string;
  /** As the policy names it; perhaps not one of the scope's. */
  readonly key: string;
  /** What the result has to be, in hexadecimal. */
  readonly result: string;
  /** Operations that one connection may have in work. */
  readonly crowd: Crowd;
  isRecorded: boolean;
  isAtToken: boolean;
  hasResult: boolean;
  isAnswered: boolean;
  /** Why no result may leave any more; null while it may. */
  forbidden: string | null;
}

/** Operations of one connection that were asked of the token and are not over: their result has not come, or nobody has taken the reply. */
export interface Crowd {
  readonly most: number;
  size: number;
}

/**
 * The laws of one run. They are looked at inside the log, the token and the client, whose callers catch what is thrown: the first one that
 * does not hold is kept until `verify`.
 */
export class Laws {
  /** By the input as the token sees it, in hexadecimal. */
  readonly asked = new Map<string, Asked>();
  #broken: BrokenProperty | null = null;

  hold(holds: boolean, law: string): void {
    if (!holds) this.#broken ??= new BrokenProperty(law);
  }

  verify(): void {
    if (this.#broken !== null) throw this.#broken;
  }
}
