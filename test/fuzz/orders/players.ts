import { ByteWriter, sha256, sha256Hex, toHex, utf8 } from "../../../policy/index.ts";
import { request, signPayload, u32 } from "../../support/native-client.ts";
import type { Client } from "./client.ts";
import type { Asked } from "./laws.ts";
import { KEY_NAMES, type ScopeName } from "./scopes.ts";
import type { Stage } from "./stage.ts";
import { type Outcome, resultOf } from "./token.ts";

/** Who stands where: a scope, and whether its caller or another user. */
const PLACES: readonly (readonly [ScopeName, boolean])[] = [
  ...([
    ["signing", true],
    ["signing", true],
    ["other", true],
    ["vault", true],
  ] as const),
  ...([
    ["intake", true],
    ["restored", true],
    ["signing", false],
    ["vault", false],
  ] as const),
];
const OUTCOMES: readonly Outcome[] = ["good", "refused", "gone", "short"];
const FORMS = ["digest", "message", "block"] as const;
/** What ends a connection of the caller's. */
const BROKEN: readonly Uint8Array[] = [
  ...[u32(4), u32(0xffff_ffff), request(0, 7), request(9, 7, u32(1)), request(9, 3, u32(1).slice(1))],
  ...[request(9, 4, signPayload().slice(1)), request(9, 4, signPayload({ key: "a\nb" })), request(9, 5, u32(1))],
];
const [SHA256_SIGN, SIGN, OAEP] = [0x1044, 0x1041, 0x9];

/** Bytes of the run, one after the other. */
export type Next = () => number;

/** What one operation asks for. */
interface Use {
  readonly op: "sign" | "decrypt" | "unwrap";
  readonly key: string;
  readonly mechanism: number;
  readonly form: (typeof FORMS)[number];
  readonly input: Uint8Array;
}

/** What a scope's caller would ask. */
const USUAL: Readonly<Record<ScopeName, readonly [Use["op"], string]>> = {
  signing: ["sign", "first"],
  other: ["sign", "other"],
  vault: ["decrypt", "vault"],
  intake: ["unwrap", "intake"],
  restored: ["sign", "restored"],
};

/** Clients that do what bytes say. */
export class Players {
  readonly #stage: Stage;
  readonly #clients: (Client | undefined)[] = [];
  #serial = 0;
  #lastId = 100;
  /** Of the last request that uses a key. */
  #lastUse = 0;

  constructor(stage: Stage) {
    this.#stage = stage;
  }

  async step(next: Next): Promise<void> {
    const kind = next();
    const place = (kind >> 4) % PLACES.length;
    if (kind % 16 < 5) {
      const client = await this.#client(place);
      if (kind % 16 < 3) this.#askUse(client, next);
      else this.#askSmall(client, next);
    } else if (kind % 16 === 5) await this.#stage.turns(1 + (next() % 4));
    else if (kind % 16 < 10) this.#happens(kind % 16, next(), this.#clients[place]?.scope);
    else this.#does(this.#clients[place], kind % 16, next());
  }

  /** What a client does with its connection. */
  #does(client: Client | undefined, what: number, how: number): void {
    if (client === undefined) return;
    if (what === 10) client.flush(1 + how);
    else if (what === 11) client.line.reads = how % 2 === 1;
    else if (what === 12) client.becomesAnother();
    else if (what === 13 && how % 2 === 1) client.hangUp();
    else if (what === 13) client.vanish();
    else if (what === 14 && how > 200) client.breaks(BROKEN[how % BROKEN.length] ?? u32(0));
    else client.flush();
  }

  /** What others do meanwhile. */
  #happens(what: number, how: number, scope: ScopeName = "other"): void {
    const stage = this.#stage;
    if (what === 6) this.#answer(how);
    else if (what === 7) this.#record(how);
    else if (what === 8) stage.time += 2 ** (how % 17);
    else if (how % 4 === 0) stage.narrow();
    else if (how % 4 === 1) stage.live.freeze({ all: how > 250, scopes: new Set([scope]) });
    else stage.isApproved = !stage.isApproved;
  }

  /** Who is there; else somebody connects and waits for the greeting's reply. */
  async #client(place: number): Promise<Client> {
    const known = this.#clients[place];
    if (known !== undefined && !known.isGone) return known;
    const [scope, isCaller] = PLACES[place] ?? ["other", false];
    const client = this.#stage.connect(scope, isCaller);
    this.#clients[place] = client;
    await this.#stage.turns(3);
    return client;
  }

  #askUse(client: Client, next: Next): void {
    const [kind, about] = [next(), next()];
    const session = about % 8 < 5 ? 1 : 1 + ((about >> 3) % 6);
    const use = this.#use(client.scope, kind, about);
    const { op, key, mechanism, form, input } = use;
    const place = new ByteWriter().u32(session).u8(key.length).bytes(utf8(key)).u32(mechanism);
    if (op === "unwrap") place.u8(8).bytes(utf8("restored"));
    const payload =
      op === "sign" ? signPayload({ session, key, mechanism, form, input }) : place.sized32(input).finish();
    this.#lastUse = this.#id(next());
    client.ask(this.#lastUse, op, payload, this.#expect(client, use, client.sessionError(session)));
  }

  /** Mostly what the scope's caller would ask, by the kind; sometimes another key, mechanism, form or length. */
  #use(scope: ScopeName, kind: number, about: number): Use {
    const [usual, own] = USUAL[scope];
    const isOdd = kind >> 5 === 7;
    const key = isOdd
      ? (KEY_NAMES[about % KEY_NAMES.length] ?? own)
      : own === "first" && kind % 2 === 1
        ? "second"
        : own;
    const op = kind >> 5 === 6 ? ((["sign", "decrypt", "unwrap"] as const)[about % 3] ?? usual) : usual;
    const isMessage = op === "sign" && (kind >> 2) % 2 === 1;
    const form = kind >> 5 === 5 ? (FORMS[about % 3] ?? "block") : isMessage ? "message" : "digest";
    const mechanism = op === "sign" ? (isMessage ? SHA256_SIGN : SIGN) : OAEP;
    const odd = kind >> 5 === 4 ? (about % 3) - 1 : 0;
    const input = new Uint8Array((op === "sign" ? 32 : 256) + odd).fill(kind >> 5 === 3 && op !== "sign" ? 0xff : 1);
    this.#serial += 1;
    input.set(u32(this.#serial), 1);
    return { op, key, mechanism, form, input };
  }

  #expect(client: Client, { op, key, mechanism, input }: Use, forbidden: string | null): Asked {
    const seen = mechanism === SHA256_SIGN ? sha256(input) : input;
    const data = toHex(seen);
    const asked: Asked = {
      ...{ scope: client.scope, key, crowd: client.crowd, forbidden },
      result: resultOf(key === "restored" ? "intake/restored" : key, op, data),
      ...{ isRecorded: false, isAtToken: false, hasResult: false, isAnswered: false },
    };
    this.#stage.laws.asked.set(data, asked);
    this.#stage.log.expect(`sha256:${sha256Hex(seen)}`, asked);
    return asked;
  }

  #askSmall(client: Client, next: Next): void {
    const kind = next();
    const id = this.#id(next());
    const number = 1 + ((kind >> 3) % 8);
    if (kind % 8 < 3) client.opens(id);
    else if (kind % 8 === 3) client.closes(id, number);
    else if (kind % 8 < 6) client.ask(id, "cancel", u32(kind % 8 === 4 ? number : this.#lastUse));
    else client.ask(id, (["hello", "ping", "unknown"] as const)[number % 3] ?? "ping", new Uint8Array());
  }

  /** Mostly a new one. */
  #id(kind: number): number {
    if (kind >= 200) return 1 + (kind % 8);
    this.#lastId += 1;
    return this.#lastId;
  }

  #answer(kind: number): void {
    const { answering } = this.#stage.token;
    const outcome = OUTCOMES[(kind >> 2) % OUTCOMES.length] ?? "good";
    if (kind % 4 === 0) answering.hold();
    else if (kind % 4 === 1) answering.always(outcome);
    else answering.one(kind >> 4, outcome);
  }

  #record(kind: number): void {
    const { writing } = this.#stage.log;
    const outcome = (kind >> 2) % 4 === 3 ? "failed" : "written";
    if (kind % 4 === 0) writing.hold();
    else if (kind % 4 === 1) writing.always(outcome);
    else writing.one(kind >> 4, outcome);
  }
}
