import { type CelRecord, celRecord, type LaunchEvent, type Tpm } from "../../attest/index.ts";

/**
 * The agent PCR and the event log that explains it, moved together: an event is extended in all banks and then
 * written down, and a quote taken inside `locked` matches the log it is reported with (I9).
 */
export class MeasurementLog {
  readonly #tpm: Tpm;
  readonly #pcr: number;
  readonly #records: CelRecord[] = [];
  #tail: Promise<unknown> = Promise.resolve();

  constructor(tpm: Tpm, pcr: number) {
    this.#tpm = tpm;
    this.#pcr = pcr;
  }

  /**
   * Extend one event. When this rejects the PCR may hold the event and the log not: the launch must end refused.
   * @param settle what becomes true with the event; runs under the lock, so that no report sees one without the other
   */
  measure(event: LaunchEvent, settle: () => void = () => undefined): Promise<void> {
    return this.locked(async () => {
      const record = celRecord(this.#records.length, this.#pcr, event);
      await this.#tpm.pcrExtend(this.#pcr, record.digests);
      this.#records.push(record);
      settle();
    });
  }

  /** Run `act` while nothing is extended. */
  locked<T>(act: (records: readonly CelRecord[]) => Promise<T>): Promise<T> {
    const turn = this.#tail.then(() => act(this.#records));
    this.#tail = turn.catch(() => undefined);
    return turn;
  }
}
