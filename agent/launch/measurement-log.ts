import { type CelRecord, celRecord, type LaunchEvent, replayCel, type Tpm } from "../../attest/index.ts";
import { equalBytes } from "../../policy/index.ts";

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
    return this.measureAll([event], settle);
  }

  /** As `measure`, for one after the other. When this rejects those that the PCR holds are written down, if it can still be read. */
  measureAll(events: readonly LaunchEvent[], settle: () => void = () => undefined): Promise<void> {
    return this.locked(async () => {
      const records = events.map((event, place) => celRecord(this.#records.length + place, this.#pcr, event));
      try {
        await this.#tpm.pcrExtend(this.#pcr, ...records.map(({ digests }) => digests));
      } catch (error) {
        this.#records.push(...(await this.#held(records).catch(() => [])));
        throw error;
      }
      this.#records.push(...records);
      settle();
    });
  }

  /** The first of these that explain, with the log, what the PCR holds. */
  async #held(records: readonly CelRecord[]): Promise<readonly CelRecord[]> {
    const value = (await this.#tpm.pcrRead("sha384", [this.#pcr])).get(this.#pcr);
    const explains = (length: number) =>
      value !== undefined && equalBytes(value, replayCel([...this.#records, ...records.slice(0, length)], "sha384"));
    return records.slice(0, records.findIndex((_, place) => explains(place + 1)) + 1);
  }

  /** Run `act` while nothing is extended. */
  locked<T>(act: (records: readonly CelRecord[]) => Promise<T>): Promise<T> {
    const turn = this.#tail.then(() => act(this.#records));
    this.#tail = turn.catch(() => undefined);
    return turn;
  }
}
