import { unsigned } from "./bytes.ts";
import type { CommandOptions } from "./commands.ts";
import { HASH_SIZE, type HashName } from "./constants.ts";
import { TpmFormatError } from "./errors.ts";
import { ProofCommands } from "./proofs.ts";
import {
  encodeDigestValues,
  encodePcrSelection,
  MAX_PCR,
  type PcrSelection,
  parseDigestValues,
  parsePcrSelection,
} from "./structures.ts";

/** What goes to the worker and back at once. */
const EXTENDS_A_JOB = 32;

type PcrValues = Map<HashName, Map<number, Uint8Array>>;

/** PCRs. */
export abstract class PcrCommands extends ProofCommands {
  /** Every selected PCR that the TPM has, bank by bank; asks as often as needed (a TPM answers 8 at a time). */
  async pcrRead(
    selection: readonly PcrSelection[],
    options: CommandOptions = {},
  ): Promise<ReadonlyMap<HashName, ReadonlyMap<number, Uint8Array>>> {
    const values: PcrValues = new Map();
    let wanted = unread(selection, values);
    while (wanted.length > 0) {
      const answers = await this.run("PCR_Read", [encodePcrSelection(wanted)], options);
      addValues(values, parsePcrSelection(answers.bytes(1)), answers.rest(2));
      const left = unread(wanted, values);
      if (count(left) === count(wanted)) break;
      wanted = left;
    }
    return values;
  }
  /** One command for all banks given. A bank that is active and not given keeps its value. */
  async pcrExtend(
    pcr: number,
    digests: ReadonlyMap<HashName, Uint8Array>,
    options: CommandOptions = {},
  ): Promise<void> {
    await this.pcrExtendAll(pcr, [digests], options);
  }
  /** As `pcrExtend` for one event after the other. Those before one that fails are extended, those after it are not. */
  async pcrExtendAll(
    pcr: number,
    events: readonly ReadonlyMap<HashName, Uint8Array>[],
    options: CommandOptions = {},
  ): Promise<void> {
    const index = unsigned("pcr", pcr, MAX_PCR);
    const encoded = events.map(encodeDigestValues);
    for (let at = 0; at < encoded.length; at += EXTENDS_A_JOB) {
      const job = Buffer.concat(encoded.slice(at, at + EXTENDS_A_JOB));
      await this.run("PCR_Extend", [index, job], options, ["password"]);
    }
  }
  /**
   * Extends every active bank with its own digest of `data` (up to 1024 bytes), in one command. Returns the digests: of every
   * algorithm the TPM implements, which may be more than the active banks (`pcrBanks`).
   */
  async pcrEvent(
    pcr: number,
    data: Uint8Array,
    options: CommandOptions = {},
  ): Promise<ReadonlyMap<HashName, Uint8Array>> {
    const answers = await this.run("PCR_Event", [unsigned("pcr", pcr, MAX_PCR), data], options, ["password"]);
    return parseDigestValues(answers.bytes(0));
  }
  /** To zero, in every bank. A TPM allows it for PCRs 16 and 23, and others by locality. */
  async pcrReset(pcr: number, options: CommandOptions = {}): Promise<void> {
    await this.run("PCR_Reset", [unsigned("pcr", pcr, MAX_PCR)], options, ["password"]);
  }
}

function unread(selection: readonly PcrSelection[], values: PcrValues): readonly PcrSelection[] {
  return selection
    .map(({ bank, pcrs }) => ({ bank, pcrs: pcrs.filter((pcr) => values.get(bank)?.has(pcr) !== true) }))
    .filter(({ pcrs }) => pcrs.length > 0);
}

const count = (selection: readonly PcrSelection[]) => selection.reduce((sum, { pcrs }) => sum + pcrs.length, 0);

/** The TPM answers the digests in the order of the selection that it answers. */
function addValues(values: PcrValues, read: readonly PcrSelection[], digests: readonly Uint8Array[]): void {
  const remaining = digests.values();
  for (const { bank, pcrs } of read) {
    const known = values.get(bank) ?? new Map<number, Uint8Array>();
    values.set(bank, known);
    for (const pcr of pcrs) {
      const digest = remaining.next().value;
      if (digest === undefined) return;
      if (digest.length !== HASH_SIZE[bank])
        throw new TpmFormatError("TPML_DIGEST", `${bank}: expected ${HASH_SIZE[bank]} bytes, got ${digest.length}`);
      known.set(pcr, digest);
    }
  }
}
