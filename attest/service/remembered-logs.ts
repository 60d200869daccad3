import { type Enrolment, expectedLog, type KnownLog, type ReferenceValues, type VerifiedEvidence } from "../index.ts";

/** Bytes of logs, each of which takes some five times as much once it is read. Those of the releases, and those of machines. */
const CAPS = { releases: 4 << 20, machines: 8 << 20 } as const;

/**
 * How the logs of the machines that report may begin: as the releases say, and as the machine's last log here did, which only grows until it boots.
 * What stands in it was verified or made here; the reports of one machine change nothing but its own entry, and of more logs than there is room for
 * the ones that were needed last are kept.
 */
export class RememberedLogs {
  readonly #expected: readonly KnownLog[];
  readonly #cap: number;
  /** By the Name of the attestation key; the last one that was needed stands last. */
  readonly #machines = new Map<string, KnownLog>();
  #size = 0;

  /** @param references of more than there is room for, the later ones count */
  constructor(
    references: readonly Pick<ReferenceValues, "events">[],
    caps: { readonly releases: number; readonly machines: number } = CAPS,
  ) {
    this.#cap = caps.machines;
    const expected: KnownLog[] = [];
    let room = caps.releases;
    for (const reference of references.toReversed()) {
      const log = expectedLog(reference);
      room -= log.bytes.length;
      if (room < 0) break;
      expected.push(log);
    }
    this.#expected = expected;
  }

  /** Bytes of machines' logs. */
  get size(): number {
    return this.#size;
  }

  /** For `verifyEvidence`. */
  of({ akName }: Pick<Enrolment, "akName">): readonly KnownLog[] {
    const own = this.#machines.get(akName);
    return own === undefined ? this.#expected : [...this.#expected, own];
  }

  /**
   * A log that begins with the remembered one is not remembered in its place, because its records are partly the other's, and it would keep each of its
   * predecessors. One that has grown by a quarter makes it forgotten: then the next one is read whole.
   */
  remember(
    { akName }: Pick<Enrolment, "akName">,
    { knownLog, logBegins }: Pick<VerifiedEvidence, "knownLog" | "logBegins">,
  ): void {
    const own = this.#machines.get(akName);
    this.#forget(akName);
    if (own === undefined || logBegins !== own) this.#keep(akName, knownLog);
    else if (knownLog.bytes.length <= 1.25 * own.bytes.length) this.#keep(akName, own);
  }

  #keep(akName: string, log: KnownLog): void {
    this.#machines.set(akName, log);
    this.#size += log.bytes.length;
    for (const oldest of this.#machines.keys()) {
      if (this.#size <= this.#cap) break;
      this.#forget(oldest);
    }
  }

  #forget(akName: string): void {
    this.#size -= this.#machines.get(akName)?.bytes.length ?? 0;
    this.#machines.delete(akName);
  }
}
