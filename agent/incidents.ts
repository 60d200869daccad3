import { cutText, type Incident, incidentEvent, MAX_INCIDENTS, MAX_WHY } from "../attest/index.ts";
import type { LaunchRecord } from "./launch/environment.ts";
import type { MeasurementLog } from "./launch/measurement-log.ts";

/**
 * How many of each are recorded. Every one has a room of its own, so that a library that floods the one does not hide the others: a shim
 * ends once, and there are sixteen.
 */
const ROOM: Readonly<Record<Incident["what"], number>> = { replacement: 16, device: 8, syscall: MAX_INCIDENTS - 24 };

/** What happens after the launch and is told one by one: measured when it happens, and in every report from then on. */
export class IncidentLog {
  readonly #log: Pick<MeasurementLog, "measure">;
  readonly #record: Pick<LaunchRecord, "incidents">;
  readonly #taken: Record<Incident["what"], number> = { replacement: 0, device: 0, syscall: 0 };

  constructor(log: Pick<MeasurementLog, "measure">, record: Pick<LaunchRecord, "incidents">) {
    this.#log = log;
    this.#record = record;
  }

  /**
   * Whether it was recorded: the log has no room for more than a verifier reads, whatever a library does, and what comes later is counted only.
   * @throws AttestError `ERR_TPM` when it could not be measured; the report tells of it no sooner than that
   */
  async record(incident: Incident): Promise<boolean> {
    // Taken before anything is awaited: attempts come faster than a TPM extends.
    if (this.#taken[incident.what] >= ROOM[incident.what]) return false;
    this.#taken[incident.what]++;
    const told = incident.what === "replacement" ? { ...incident, why: cutText(incident.why, MAX_WHY) } : incident;
    await this.#log.measure(incidentEvent(told), () => {
      this.#record.incidents = [...this.#record.incidents, told];
    });
    return true;
  }
}
