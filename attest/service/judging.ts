import { generateKeyPairSync } from "node:crypto";
import { toBase64, toHex } from "../../policy/index.ts";
import { type Continuity, type Enrolment, encodeTpmPublic, type Reason, tpmName } from "../index.ts";
import type { OpenChallenge } from "./challenges.ts";
import { Refusal, ServiceError } from "./errors.ts";
import { type JudgeOrder, unauthenticReasons } from "./judge.ts";
import type { Outcome } from "./machine-state.ts";
import type { JudgePool } from "./pool.ts";
import type { MachineRecord, StoredReport } from "./store.ts";
import { Turns } from "./turns.ts";

/** What viewers may have judged besides: one at a time, and so many that wait for it. */
const waitingForViewers = 8;

/** How reports come to be judged: what is seen where requests are answered, and the ways into the queue. */
export class Judging {
  readonly #pool: JudgePool;
  readonly #viewers = new Turns(waitingForViewers);
  /** Evidence in an unknown name is judged against this key, by the same steps: the time does not tell which names are enrolled. */
  readonly #nobody = enrolmentOfNobody();

  constructor(pool: JudgePool) {
    this.#pool = pool;
  }

  /** Why a report is not the machine's own; empty when it is. Takes no place in the queue. */
  foreign(machine: MachineRecord | null, open: OpenChallenge, evidence: Uint8Array): Promise<readonly Reason[]> {
    return unauthenticReasons(evidence, { challenge: open.challenge, enrolment: this.#enrolmentOf(machine, open) });
  }

  /** @throws Refusal `busy`, `not-judged`, `closing` */
  fresh(machine: MachineRecord | null, open: OpenChallenge, evidence: Uint8Array, now: Date): Promise<Outcome> {
    const { challenge, challenged } = open;
    const previous = machine?.view.continuity ?? null;
    const enrolment = this.#enrolmentOf(machine, open);
    return this.#inPool({ evidence, challenge, challenged, now, enrolment, previous });
  }

  /** As of the time when the report came. @throws as `fresh` */
  stored({ enrolment }: MachineRecord, report: StoredReport, previous: Continuity | null): Promise<Outcome> {
    const { evidence, challenge } = report;
    const times = { challenged: new Date(report.challenged), now: new Date(report.at) };
    return this.#inPool({ evidence, challenge, ...times, enrolment, previous });
  }

  /** Whoever only looks has one place in the queue, so that the others stay the machines'. @throws Refusal `busy` */
  async forViewers(act: () => Promise<Outcome>): Promise<Outcome> {
    const turn = this.#viewers.take("viewers", act);
    if (turn === null) throw new Refusal("busy");
    return turn;
  }

  #enrolmentOf(machine: MachineRecord | null, open: OpenChallenge): Enrolment {
    return machine?.enrolment ?? { ...this.#nobody, name: open.machine };
  }

  async #inPool(order: JudgeOrder): Promise<Outcome> {
    try {
      return await this.#pool.judge(order);
    } catch (error) {
      if (!(error instanceof ServiceError)) throw error;
      const code =
        error.code === "ERR_WORKER_BUSY" ? "busy" : error.code === "ERR_WORKER_CLOSED" ? "closing" : "not-judged";
      throw new Refusal(code, { message: error.message });
    }
  }
}

/** A key that was thrown away the moment it was made. */
function enrolmentOfNobody(): Enrolment {
  const { x = "", y = "" } = generateKeyPairSync("ec", { namedCurve: "P-256" }).publicKey.export({ format: "jwk" });
  const coordinate = (text: string) => Uint8Array.fromBase64(text, { alphabet: "base64url" });
  const akPublic = encodeTpmPublic({
    ...{ kind: "ecc", nameAlg: 0x000b, attributes: 0x50472, authPolicy: new Uint8Array(), symmetric: null, curve: 3 },
    ...{ scheme: { scheme: 0x0018, hash: 0x000b }, x: coordinate(x), y: coordinate(y) },
  });
  const akName = toHex(tpmName(akPublic));
  const names = { name: "nobody", ekName: akName, akPublic: toBase64(akPublic), akName };
  return { version: 1, ...names, assurance: "software-tpm", ekCertificateSha256: null };
}
