import { toHex } from "../policy/index.ts";
import { type PcrBank, resetValue } from "./banks.ts";
import { parseFirmwareLog, replayFirmwareLog } from "./firmware-log.ts";

/** PCRs that firmware and its settings decide, and that no image can predict; 14 is untouched where no shim boots. */
export const firmwareReferencePcrs: readonly number[] = [0, 1, 2, 3, 5, 6, 7, 14];

/**
 * Reference values of firmware PCRs: those that the log of a machine of the same kind replays to, in both banks, as lower-case
 * hexadecimal by index. A PCR that the log never extends keeps its reset value.
 * Does not establish that any machine booted so: take the log of a report that verified.
 * @throws AttestError `ERR_FIRMWARE_LOG`, also for a log without one of the banks
 */
export function firmwareReferenceValues(
  log: Uint8Array,
  pcrs: readonly number[],
): Readonly<Record<PcrBank, Readonly<Record<string, string>>>> {
  const parsed = parseFirmwareLog(log);
  const inBank = (bank: PcrBank) => {
    const replayed = replayFirmwareLog(parsed, bank);
    return Object.fromEntries(pcrs.map((pcr) => [`${pcr}`, toHex(replayed.get(pcr) ?? resetValue(bank, pcr))]));
  };
  return { sha256: inBank("sha256"), sha384: inBank("sha384") };
}
