import { bankAlgorithm, pcrBanks } from "../../../attest/banks.ts";
import { describeFirmwareEvent } from "../../../attest/firmware-events.ts";
import { parseFirmwareLog, pcrsWithoutOneSeparator, replayFirmwareLog } from "../../../attest/firmware-log.ts";

export const maxLength = 8192;

export function run(bytes: Uint8Array): void {
  const log = parseFirmwareLog(bytes);
  for (const bank of pcrBanks.filter((each) => log.algorithms.includes(bankAlgorithm(each)))) {
    pcrsWithoutOneSeparator(log, bank);
    for (const [index, event] of log.events.entries()) describeFirmwareEvent(event, index, bank);
    replayFirmwareLog(log, bank);
  }
}
