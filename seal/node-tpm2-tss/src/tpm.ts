import { loadBinding, type NativeValue } from "./binding.ts";
import { type Answers, Connection } from "./connection.ts";
import {
  CAPABILITY,
  ESYS_TR,
  HASH,
  type HashName,
  type Hierarchy,
  PROPERTY,
  SESSION_ATTRIBUTE,
  SESSION_TYPE,
} from "./constants.ts";
import { type Authorization, PrimaryKey, Session, sessionHandles, type TpmHandle, TpmObject } from "./handles.ts";
import {
  encodeDigestList,
  encodeDigestValues,
  encodePcrSelection,
  type NvPublic,
  type PcrSelection,
  parseHandles,
  parseNvPublic,
  parsePcrSelection,
  parseProperties,
} from "./structures.ts";

export interface TpmOptions {
  /** TCTI configuration `name:value`, e.g. `device:/dev/tpmrm0`. Never searched for: a default could be another process's TPM. */
  readonly tcti: string;
  /** Directory that holds tpm2_tss.node. */
  readonly nativeDirectory: string;
}

export interface SessionOptions {
  readonly kind: Session["kind"];
  /** Hash of the session and of its policy digest. Default sha256. */
  readonly hash?: HashName;
  /** Salts the session to this key. Worth nothing unless the key's Name was compared with a trusted one first. */
  readonly saltKey?: TpmObject;
  /** Encrypt the first response parameter (AES-128-CFB). Needs a salt to keep anything from who watches the bus. */
  readonly encrypt?: boolean;
  /** Encrypt the first command parameter. */
  readonly decrypt?: boolean;
}

/** Sessions of a command: the authorisations of its handles in order, then any that only encrypt. */
export interface CommandOptions {
  readonly sessions?: readonly Authorization[];
}

export interface NvIndex extends NvPublic {
  readonly name: Uint8Array;
}

const SESSION_KEY_BITS = 128;
const MAX_LIST = 254; // TPM2_GetCapability answers at most this many handles
const NOTHING = new Uint8Array(0);
// TPMT_SIG_SCHEME with TPM_ALG_NULL: the key's own scheme.
const KEY_SCHEME = Uint8Array.of(0x00, 0x10);

/**
 * Commands of one TPM, named as in ESYS. Structures cross as the TCG marshals them (TPMT_PUBLIC, TPMT_SIGNATURE,
 * TPMT_TK_VERIFIED without a TPM2B size). Every method throws TpmError when the command fails. Nothing here judges what
 * the TPM says: signatures, Names and certificates are the caller's to verify.
 */
export class Tpm implements AsyncDisposable {
  readonly #connection: Connection;

  private constructor(connection: Connection) {
    this.#connection = connection;
  }

  /** Connects. The TPM must have been started (firmware, kernel or emulator does it). */
  static async open({ tcti, nativeDirectory }: TpmOptions): Promise<Tpm> {
    if (!/^[a-z0-9_-]+:[^\0]+$/.test(tcti))
      throw new TypeError("tcti: expected name:configuration, e.g. device:/dev/tpmrm0");
    const connection = new Connection(loadBinding(nativeDirectory));
    await connection.run("Open", [], [new TextEncoder().encode(tcti)]);
    return new Tpm(connection);
  }

  /** Flushes every handle still held, then disconnects. */
  close(): Promise<void> {
    return this.#connection.close();
  }
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  // Handles

  /** A persistent object or NV index by its TPM handle. Its public area is what the connection answers, unauthenticated. */
  async trFromTpmPublic(handle: number, options: CommandOptions = {}): Promise<TpmObject> {
    const answers = await this.#run("TR_FromTPMPublic", [handle], options.sessions);
    return this.#hold(new TpmObject(this.#connection, answers.number(0), answers.bytes(1)), "TR_Close");
  }
  async flushContext(handle: TpmHandle): Promise<void> {
    await handle[Symbol.asyncDispose]();
  }

  // Sessions and policies

  async startAuthSession(options: SessionOptions): Promise<Session> {
    const { kind, hash = "sha256", saltKey, encrypt = false, decrypt = false } = options;
    const attributes =
      SESSION_ATTRIBUTE.continueSession |
      (encrypt ? SESSION_ATTRIBUTE.encrypt : 0) |
      (decrypt ? SESSION_ATTRIBUTE.decrypt : 0);
    const keyBits = encrypt || decrypt ? SESSION_KEY_BITS : 0;
    const inputs = [saltKey?.tr ?? ESYS_TR.none, ESYS_TR.none, SESSION_TYPE[kind], HASH[hash], keyBits, attributes];
    const answers = await this.#run("StartAuthSession", inputs);
    return this.#hold(new Session(this.#connection, answers.number(0), kind), "FlushContext");
  }
  async nonceTpm(session: Session): Promise<Uint8Array> {
    return (await this.#run("TRSess_GetNonceTPM", [session.tr])).bytes(0);
  }
  /** Satisfies a PolicySecret step with the authorisation of a hierarchy or object; without expiry. */
  async policySecret(
    authority: Hierarchy | TpmObject,
    policy: Session,
    options: CommandOptions & { readonly policyRef?: Uint8Array } = {},
  ): Promise<void> {
    const { policyRef = NOTHING, sessions = ["password"] } = options;
    const handle = typeof authority === "string" ? ESYS_TR[authority] : authority.tr;
    await this.#run("PolicySecret", [handle, policy.tr, NOTHING, NOTHING, policyRef, 0], sessions);
  }
  /** With `pcrDigest` the TPM refuses at once when its PCRs differ; without, it takes them as they are. */
  async policyPcr(policy: Session, selection: readonly PcrSelection[], pcrDigest: Uint8Array = NOTHING): Promise<void> {
    await this.#run("PolicyPCR", [policy.tr, pcrDigest, encodePcrSelection(selection)]);
  }
  /** Replaces the session's digest, which must be one of `branches` (2 to 8), by that of their alternative. */
  async policyOr(policy: Session, branches: readonly Uint8Array[]): Promise<void> {
    await this.#run("PolicyOR", [policy.tr, encodeDigestList(branches)]);
  }
  async policyCommandCode(policy: Session, code: number): Promise<void> {
    await this.#run("PolicyCommandCode", [policy.tr, code]);
  }
  async policyAuthorize(
    policy: Session,
    approved: Uint8Array,
    policyRef: Uint8Array,
    keyName: Uint8Array,
    ticket: Uint8Array,
  ): Promise<void> {
    await this.#run("PolicyAuthorize", [policy.tr, approved, policyRef, keyName, ticket]);
  }
  async policyGetDigest(policy: Session): Promise<Uint8Array> {
    return (await this.#run("PolicyGetDigest", [policy.tr])).bytes(0);
  }
  async policyRestart(policy: Session): Promise<void> {
    await this.#run("PolicyRestart", [policy.tr]);
  }

  // Objects

  /** The same template gives the same key as long as the hierarchy's seed lives. The authValue is empty. */
  async createPrimary(hierarchy: Hierarchy, template: Uint8Array, options: CommandOptions = {}): Promise<PrimaryKey> {
    const answers = await this.#run("CreatePrimary", [ESYS_TR[hierarchy], template], options.sessions ?? ["password"]);
    return this.#hold(
      new PrimaryKey(this.#connection, answers.number(0), answers.bytes(2), answers.bytes(1)),
      "FlushContext",
    );
  }
  async load(
    parent: TpmObject,
    privateArea: Uint8Array,
    publicArea: Uint8Array,
    options: CommandOptions = {},
  ): Promise<TpmObject> {
    const answers = await this.#run("Load", [parent.tr, privateArea, publicArea], options.sessions ?? ["password"]);
    return this.#hold(new TpmObject(this.#connection, answers.number(0), answers.bytes(1)), "FlushContext");
  }
  /** Public part only. A ticket made under the null hierarchy is worth nothing: load keys for PolicyAuthorize under owner. */
  async loadExternal(publicArea: Uint8Array, hierarchy: Hierarchy): Promise<TpmObject> {
    const answers = await this.#run("LoadExternal", [publicArea, ESYS_TR[hierarchy]]);
    return this.#hold(new TpmObject(this.#connection, answers.number(0), answers.bytes(1)), "FlushContext");
  }
  async readPublic(object: TpmObject): Promise<{
    publicArea: Uint8Array;
    name: Uint8Array;
    qualifiedName: Uint8Array;
  }> {
    const answers = await this.#run("ReadPublic", [object.tr]);
    return {
      publicArea: answers.bytes(0),
      name: answers.bytes(1),
      qualifiedName: answers.bytes(2),
    };
  }
  /** Returns the private area to load under the same parent. `duplicate` has no inner wrapper. */
  async import(
    parent: TpmObject,
    publicArea: Uint8Array,
    duplicate: Uint8Array,
    encryptedSeed: Uint8Array,
    options: CommandOptions = {},
  ): Promise<Uint8Array> {
    return (
      await this.#run("Import", [parent.tr, publicArea, duplicate, encryptedSeed], options.sessions ?? ["password"])
    ).bytes(0);
  }
  /** Returns a TPMT_TK_VERIFIED. `digest` is not hashed again. */
  async verifySignature(key: TpmObject, digest: Uint8Array, signature: Uint8Array): Promise<Uint8Array> {
    return (await this.#run("VerifySignature", [key.tr, digest, signature])).bytes(0);
  }
  async makeCredential(
    key: TpmObject,
    credential: Uint8Array,
    name: Uint8Array,
  ): Promise<{ credentialBlob: Uint8Array; encryptedSecret: Uint8Array }> {
    const answers = await this.#run("MakeCredential", [key.tr, credential, name]);
    return {
      credentialBlob: answers.bytes(0),
      encryptedSecret: answers.bytes(1),
    };
  }
  /** The credential, if it was made for the Name of `activated` and for `key`. */
  async activateCredential(
    activated: TpmObject,
    key: TpmObject,
    credentialBlob: Uint8Array,
    encryptedSecret: Uint8Array,
    options: CommandOptions = {},
  ): Promise<Uint8Array> {
    const sessions = options.sessions ?? ["password", "password"];
    return (
      await this.#run("ActivateCredential", [activated.tr, key.tr, credentialBlob, encryptedSecret], sessions)
    ).bytes(0);
  }

  // PCRs and quotes

  /** Every selected PCR that the TPM has, bank by bank; asks as often as needed (a TPM answers 8 at a time). */
  async pcrRead(selection: readonly PcrSelection[]): Promise<ReadonlyMap<HashName, ReadonlyMap<number, Uint8Array>>> {
    const values = new Map<HashName, Map<number, Uint8Array>>();
    let wanted = selection.filter(({ pcrs }) => pcrs.length > 0);
    while (wanted.length > 0) {
      const answers = await this.#run("PCR_Read", [encodePcrSelection(wanted)]);
      const read = parsePcrSelection(answers.bytes(1));
      const digests = answers.rest(2);
      if (digests.length === 0) break;
      let position = 0;
      for (const { bank, pcrs } of read) {
        const known = values.get(bank) ?? new Map<number, Uint8Array>();
        values.set(bank, known);
        for (const pcr of pcrs) {
          const digest = digests[position++];
          if (digest !== undefined) known.set(pcr, digest);
        }
      }
      wanted = wanted
        .map(({ bank, pcrs }) => ({
          bank,
          pcrs: pcrs.filter((pcr) => values.get(bank)?.has(pcr) !== true),
        }))
        .filter(({ pcrs }) => pcrs.length > 0);
    }
    return values;
  }
  /** One command for all banks given. A bank that is active and not given keeps its value. */
  async pcrExtend(pcr: number, digests: ReadonlyMap<HashName, Uint8Array>): Promise<void> {
    if (!Number.isInteger(pcr) || pcr < 0 || pcr > 23) throw new TypeError(`pcr: expected 0 to 23, got ${pcr}`);
    await this.#run("PCR_Extend", [pcr, encodeDigestValues(digests)], ["password"]);
  }
  /** TPMS_ATTEST exactly as signed, and TPMT_SIGNATURE. The key's own scheme. */
  async quote(
    key: TpmObject,
    qualifyingData: Uint8Array,
    selection: readonly PcrSelection[],
    options: CommandOptions = {},
  ): Promise<{ attest: Uint8Array; signature: Uint8Array }> {
    const inputs = [key.tr, qualifyingData, KEY_SCHEME, encodePcrSelection(selection)];
    const answers = await this.#run("Quote", inputs, options.sessions ?? ["password"]);
    return { attest: answers.bytes(0), signature: answers.bytes(1) };
  }

  // NV, capabilities, random

  async nvReadPublic(index: TpmObject): Promise<NvIndex> {
    const answers = await this.#run("NV_ReadPublic", [index.tr]);
    return { ...parseNvPublic(answers.bytes(0)), name: answers.bytes(1) };
  }
  /** The whole index, in as many commands as its size needs. `authority` "index" is the index's own, empty, authValue. */
  async nvRead(
    index: TpmObject,
    options: { readonly authority?: "index" | "owner" | "platform"; readonly maxChunk?: number } = {},
  ): Promise<Uint8Array> {
    const { authority = "index", maxChunk = Number.POSITIVE_INFINITY } = options;
    const { dataSize } = await this.nvReadPublic(index);
    const largest = (await this.properties(PROPERTY.nvBufferMax, 1)).get(PROPERTY.nvBufferMax) ?? 512;
    const chunk = Math.max(1, Math.min(largest, maxChunk));
    const handle = authority === "index" ? index.tr : ESYS_TR[authority];
    const data = new Uint8Array(dataSize);
    for (let offset = 0; offset < dataSize; offset += chunk) {
      const size = Math.min(chunk, dataSize - offset);
      data.set((await this.#run("NV_Read", [handle, index.tr, size, offset], ["password"])).bytes(0), offset);
    }
    return data;
  }
  /** TPMS_CAPABILITY_DATA, raw, and whether the TPM has more. */
  async getCapability(
    capability: number,
    property: number,
    count: number,
  ): Promise<{ more: boolean; data: Uint8Array }> {
    const answers = await this.#run("GetCapability", [capability, property, count]);
    return { more: answers.number(0) !== 0, data: answers.bytes(1) };
  }
  /** Handles of one range, e.g. HANDLE_RANGE.transient. Loaded sessions come with their own type: 0x02 HMAC, 0x03 policy. */
  async handles(range: number): Promise<readonly number[]> {
    const found: number[] = [];
    for (let next = range, more = true; more; ) {
      const answer = await this.getCapability(CAPABILITY.handles, next, MAX_LIST);
      const handles = parseHandles(answer.data);
      found.push(...handles);
      more = answer.more && handles.length > 0;
      next = range + ((handles.at(-1) ?? 0) & 0x00ffffff) + 1;
    }
    return found;
  }
  /** TPM_PT values, from `first` on. */
  async properties(first: number, count: number): Promise<ReadonlyMap<number, number>> {
    return parseProperties((await this.getCapability(CAPABILITY.tpmProperties, first, count)).data);
  }
  /** The allocated PCRs of each bank; a bank that is not active has none or is missing. */
  async pcrBanks(): Promise<readonly PcrSelection[]> {
    const { data } = await this.getCapability(CAPABILITY.pcrs, 0, 1);
    return parsePcrSelection(data.subarray(4));
  }
  /** Random bytes of the TPM, in as many commands as needed. */
  async getRandom(count: number, options: CommandOptions = {}): Promise<Uint8Array> {
    if (!Number.isInteger(count) || count < 0 || count > 65535)
      throw new TypeError(`count: expected 0 to 65535, got ${count}`);
    const random = new Uint8Array(count);
    for (let filled = 0; filled < count; ) {
      const part = (await this.#run("GetRandom", [count - filled], options.sessions)).bytes(0);
      if (part.length === 0) throw new TypeError("GetRandom: the TPM answered no bytes");
      random.set(part, filled);
      filled += part.length;
    }
    return random;
  }

  #run(command: string, inputs: readonly NativeValue[], sessions: readonly Authorization[] = []): Promise<Answers> {
    return this.#connection.run(command, sessionHandles(sessions), inputs);
  }
  #hold<T extends TpmHandle>(handle: T, release: "FlushContext" | "TR_Close"): T {
    this.#connection.hold(handle.tr, release);
    return handle;
  }
}
