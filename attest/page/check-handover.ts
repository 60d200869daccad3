import type { StoredReport } from "./client.ts";

/** A stored report on its way from a machine's page to the drop zone. It does not leave the tab. */
export interface Handover {
  readonly machine: string;
  /** Name that it would have as a file. */
  readonly name: string;
  readonly report: StoredReport;
}

let waiting: Handover | null = null;

export function handOver(given: Handover): void {
  waiting = given;
}

/** Takes it away: whoever comes to the drop zone another time begins with nothing. */
export function takeHandover(): Handover | null {
  const taken = waiting;
  waiting = null;
  return taken;
}
