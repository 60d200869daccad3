import { U16_MAX, unsigned } from "./bytes.ts";
import { type CommandOptions, NOTHING } from "./commands.ts";
import type { HashName } from "./constants.ts";
import { TpmFormatError } from "./errors.ts";
import { TpmObject } from "./handles.ts";
import { PcrCommands } from "./pcrs.ts";
import { type Attestation, attestation, KEY_SCHEME, type SigningOptions } from "./proofs.ts";
import { encodeNvPublic, type NvPublic, parseNvPublic } from "./structures.ts";

/** What the TPM says of an index. */
export interface NvIndex extends NvPublic {
  readonly name: Uint8Array;
  /** TPMS_NV_PUBLIC. */
  readonly raw: Uint8Array;
}

/** Whose authorisation is used: the index's own, or that of a hierarchy. */
export type NvAuthority = "index" | "owner" | "platform";

/** Of commands that an index or a hierarchy authorises. */
export interface NvOptions extends CommandOptions {
  /** Default `index`. The default session, `"password"`, is then its own authValue. */
  readonly authority?: NvAuthority;
}

/** Of commands that are repeated for large data: a policy session, good for one use, serves one chunk only. */
export interface NvDataOptions extends NvOptions {
  /** The most bytes of one command. Default: what the TPM takes. */
  readonly maxChunk?: number;
}

/** Of reading. */
export interface NvReadOptions extends NvDataOptions {
  /** How many bytes, from the first on, for who knows the index's size. Default: all, for which the index is asked first. */
  readonly size?: number;
}

/** An index to define. */
export interface NvDefinition {
  /** 0x01xxxxxx. */
  readonly index: number;
  /** TPMA_NV. */
  readonly attributes: number;
  /** 8 for a counter or bits, the size of `nameAlg` for an extend index. */
  readonly dataSize: number;
  readonly authPolicy?: Uint8Array;
  /** Default sha256. */
  readonly nameAlg?: HashName;
  /** Default owner. An index of the platform needs TPMA_NV_PLATFORMCREATE, and survives Clear. */
  readonly authority?: "owner" | "platform";
  /** The index's authValue, which ESYS then knows. Default: empty. */
  readonly auth?: Uint8Array;
}

const MAX_BITS = (1n << 64n) - 1n;

/** NV indices. */
export abstract class NvCommands extends PcrCommands {
  /** Disposing the result forgets the handle; the index stays. */
  async nvDefineSpace(definition: NvDefinition, options: CommandOptions = {}): Promise<TpmObject> {
    const { authPolicy = NOTHING, nameAlg = "sha256", authority = "owner", auth = NOTHING } = definition;
    const publicArea = encodeNvPublic({ ...definition, authPolicy, nameAlg });
    const inputs = [authority, auth, publicArea];
    const answers = await this.run("NV_DefineSpace", inputs, options, ["password"], "TR_Close");
    return new TpmObject(this.connection, answers.number(0), answers.bytes(1));
  }
  /** Deletes the index and its data; `index` is of no use afterwards. */
  async nvUndefineSpace(
    index: TpmObject,
    options: CommandOptions & { readonly authority?: "owner" | "platform" } = {},
  ): Promise<void> {
    await this.run("NV_UndefineSpace", [options.authority ?? "owner", index], options, ["password"]);
    this.connection.forget(index.tr);
  }
  /** What the index is, as the connection answers it. */
  async nvReadPublic(index: TpmObject, options: CommandOptions = {}): Promise<NvIndex> {
    const answers = await this.run("NV_ReadPublic", [index], options);
    const raw = answers.bytes(0);
    return { ...parseNvPublic(raw), name: answers.bytes(1), raw };
  }
  /** The whole index, or `size` bytes of it, in as many commands as that needs. */
  async nvRead(index: TpmObject, options: NvReadOptions = {}): Promise<Uint8Array> {
    const whole = unsigned(
      "size",
      options.size ?? (await this.nvReadPublic(index, { signal: options.signal })).dataSize,
      U16_MAX,
    );
    const data = new Uint8Array(whole);
    const chunk = await this.#chunk(options);
    for (let offset = 0; offset < whole; offset += chunk) {
      const size = Math.min(chunk, whole - offset);
      const inputs = [authorityOf(index, options), index, size, offset];
      const part = (await this.run("NV_Read", inputs, options, ["password"])).bytes(0);
      if (part.length !== size)
        throw new TpmFormatError("TPM2B_MAX_NV_BUFFER", `expected ${size} bytes, got ${part.length}`);
      data.set(part, offset);
    }
    return data;
  }
  /** Writes all of `data` from `offset` (default 0) on, in as many commands as it needs: not at once for who reads meanwhile. */
  async nvWrite(
    index: TpmObject,
    data: Uint8Array,
    options: NvDataOptions & { readonly offset?: number } = {},
  ): Promise<void> {
    const start = unsigned("offset", options.offset ?? 0, U16_MAX);
    unsigned("end of data", start + data.length, U16_MAX);
    const whole = new Uint8Array(data); // as it is now, not when its turn comes
    const chunk = await this.#chunk(options);
    let done = 0;
    // An empty write is a command too: it marks the index as written.
    do {
      const part = whole.subarray(done, done + chunk);
      const inputs = [authorityOf(index, options), index, part, start + done];
      await this.run("NV_Write", inputs, options, ["password"]);
      done += part.length;
    } while (done < whole.length);
  }
  /** A counter's first increment sets it above every counter that was ever deleted. */
  async nvIncrement(index: TpmObject, options: NvOptions = {}): Promise<void> {
    await this.run("NV_Increment", [authorityOf(index, options), index], options, ["password"]);
  }
  /** H(old data || data), as a PCR; the TPM does not hash `data` first. */
  async nvExtend(index: TpmObject, data: Uint8Array, options: NvOptions = {}): Promise<void> {
    await this.run("NV_Extend", [authorityOf(index, options), index, data], options, ["password"]);
  }
  /** Sets the given ones of 64 bits; none is ever cleared. */
  async nvSetBits(index: TpmObject, bits: bigint, options: NvOptions = {}): Promise<void> {
    if (bits < 0n || bits > MAX_BITS) throw new TypeError(`bits: expected 64 bits, got ${bits}`);
    const [high, low] = [Number(bits >> 32n), Number(bits & 0xffffffffn)];
    await this.run("NV_SetBits", [authorityOf(index, options), index, high, low], options, ["password"]);
  }
  /** Name and data of an index, from `offset` (default 0), `size` bytes (default: to its end). Authorisations: key, authority. */
  async nvCertify(
    key: TpmObject,
    index: TpmObject,
    qualifyingData: Uint8Array,
    options: NvOptions & SigningOptions & { readonly offset?: number; readonly size?: number } = {},
  ): Promise<Attestation> {
    const offset = unsigned("offset", options.offset ?? 0, U16_MAX);
    const size =
      options.size ?? Math.max(0, (await this.nvReadPublic(index, { signal: options.signal })).dataSize - offset);
    const handles = [key, authorityOf(index, options), index];
    const inputs = [...handles, qualifyingData, options.scheme ?? KEY_SCHEME, unsigned("size", size, U16_MAX), offset];
    return attestation(await this.run("NV_Certify", inputs, options, ["password", "password"]));
  }

  async #chunk({ maxChunk = U16_MAX, signal }: NvDataOptions): Promise<number> {
    return Math.max(1, Math.min(unsigned("maxChunk", maxChunk, U16_MAX), await this.nvBufferMax(signal)));
  }
}

function authorityOf(index: TpmObject, { authority = "index" }: NvOptions): TpmObject | "owner" | "platform" {
  return authority === "index" ? index : authority;
}
