import { U16_MAX, U32_MAX, unsigned } from "./bytes.ts";
import { type CommandOptions, Commands, type SignalOptions } from "./commands.ts";
import { CAPABILITY, PROPERTY, STARTUP_TYPE } from "./constants.ts";
import { TpmFormatError } from "./errors.ts";
import {
  type PcrSelection,
  parseHandles,
  parsePcrBanks,
  parseProperties,
  parseTimeInfo,
  type TimeInfo,
} from "./structures.ts";

const MAX_LIST = 254; // TPM2_GetCapability answers at most this many handles
const NV_BUFFER_LEAST = 512; // of a TPM that does not say

/** The whole TPM: start and stop, capabilities, random numbers, the clock. */
export abstract class GeneralCommands extends Commands {
  #nvBufferMax: number | null = null;

  /**
   * Firmware does this at power-on. `state` resumes what `shutdown("state")` kept. A TPM that was started already stays as it
   * is, and ESYS takes that for success.
   */
  async startup(type: "clear" | "state", options: SignalOptions = {}): Promise<void> {
    await this.run("Startup", [STARTUP_TYPE[type]], options);
  }
  /** Announces that power will be cut. Without it the next start counts as a failed try for the dictionary-attack lockout. */
  async shutdown(type: "clear" | "state", options: CommandOptions = {}): Promise<void> {
    await this.run("Shutdown", [STARTUP_TYPE[type]], options);
  }
  /** TPMS_CAPABILITY_DATA, raw, and whether the TPM has more. */
  async getCapability(
    capability: number,
    property: number,
    count: number,
    options: CommandOptions = {},
  ): Promise<{ more: boolean; data: Uint8Array }> {
    const inputs = [
      unsigned("capability", capability, U32_MAX),
      unsigned("property", property, U32_MAX),
      unsigned("count", count, U32_MAX),
    ];
    const answers = await this.run("GetCapability", inputs, options);
    return { more: answers.number(0) !== 0, data: answers.bytes(1) };
  }
  /** Handles of one range, e.g. HANDLE_RANGE.transient. Loaded sessions come with their own type: 0x02 HMAC, 0x03 policy. */
  async handles(range: number, options: CommandOptions = {}): Promise<readonly number[]> {
    const found: number[] = [];
    for (let next = range, more = true; more; ) {
      const answer = await this.getCapability(CAPABILITY.handles, next, MAX_LIST, options);
      const handles = parseHandles(answer.data);
      found.push(...handles);
      more = answer.more && handles.length > 0;
      const following = range + ((handles.at(-1) ?? 0) & 0x00ffffff) + 1;
      if (more && following <= next) throw new TpmFormatError("TPML_HANDLE", "expected ascending handles");
      next = following;
    }
    return found;
  }
  /** TPM_PT values, from `first` on. */
  async properties(first: number, count: number, options: CommandOptions = {}): Promise<ReadonlyMap<number, number>> {
    return parseProperties((await this.getCapability(CAPABILITY.tpmProperties, first, count, options)).data);
  }
  /** The allocated PCRs of each bank; a bank that is not active has none or is missing. */
  async pcrBanks(options: CommandOptions = {}): Promise<readonly PcrSelection[]> {
    return parsePcrBanks((await this.getCapability(CAPABILITY.pcrs, 0, 1, options)).data);
  }
  /** Random bytes of the TPM, in as many commands as needed. */
  async getRandom(count: number, options: CommandOptions = {}): Promise<Uint8Array> {
    const random = new Uint8Array(unsigned("count", count, U16_MAX));
    for (let filled = 0; filled < count; ) {
      const part = (await this.run("GetRandom", [count - filled], options)).bytes(0);
      if (part.length === 0 || part.length > count - filled)
        throw new TpmFormatError("TPM2B_DIGEST", `expected 1 to ${count - filled} random bytes, got ${part.length}`);
      random.set(part, filled);
      filled += part.length;
    }
    return random;
  }
  /** The TPM's clock, unsigned: `getTime` signs it. `raw` is the TPMS_TIME_INFO. */
  async readClock(options: CommandOptions = {}): Promise<TimeInfo & { readonly raw: Uint8Array }> {
    const raw = (await this.run("ReadClock", [], options)).bytes(0);
    return { ...parseTimeInfo(raw), raw };
  }
  /** Resolves when the TPM supports these TPMT_PUBLIC_PARMS, e.g. an RSA key size. */
  async testParms(parameters: Uint8Array, options: CommandOptions = {}): Promise<void> {
    await this.run("TestParms", [parameters], options);
  }

  /** The most bytes of one NV command. A fixed property: asked for once. */
  protected async nvBufferMax(signal: AbortSignal | undefined): Promise<number> {
    const { nvBufferMax } = PROPERTY;
    this.#nvBufferMax ??= (await this.properties(nvBufferMax, 1, { signal })).get(nvBufferMax) ?? NV_BUFFER_LEAST;
    return this.#nvBufferMax;
  }
}
