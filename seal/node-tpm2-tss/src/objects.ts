import type { NativeValue } from "./binding.ts";
import { U32_MAX, unsigned } from "./bytes.ts";
import { type CommandOptions, type Input, NOTHING } from "./commands.ts";
import type { Answers } from "./connection.ts";
import type { Hierarchy } from "./constants.ts";
import { type Creation, PrimaryKey, TpmObject } from "./handles.ts";
import { PolicyCommands } from "./policies.ts";
import { encodePcrSelection, type PcrSelection } from "./structures.ts";

/** What a new object contains beyond its template. */
export interface CreationOptions extends CommandOptions {
  /** The new object's authValue, which ESYS then knows, and the data to seal or the key to take. Default: both empty. */
  readonly sensitive?: { readonly auth?: Uint8Array; readonly data?: Uint8Array };
  /** Goes into the creation data. */
  readonly outsideInfo?: Uint8Array;
  /** PCRs whose values go into the creation data. */
  readonly creationPcrs?: readonly PcrSelection[];
}

/** The inner wrapper of a duplicate. Default: none. */
export interface InnerWrapperOptions extends CommandOptions {
  /** Empty in `duplicate`: the TPM makes one. */
  readonly encryptionKey?: Uint8Array;
  /** TPMT_SYM_DEF_OBJECT. */
  readonly symmetric?: Uint8Array;
}

// TPMT_SYM_DEF_OBJECT with TPM_ALG_NULL.
const NO_WRAPPER = Uint8Array.of(0x00, 0x10);

/** Keys and sealed objects: making, loading, moving, keeping, unsealing. */
export abstract class ObjectCommands extends PolicyCommands {
  /** The same template gives the same key as long as the hierarchy's seed lives. */
  async createPrimary(hierarchy: Hierarchy, template: Uint8Array, options: CreationOptions = {}): Promise<PrimaryKey> {
    const inputs = [hierarchy, ...creationInputs(template, options)];
    const answers = await this.run("CreatePrimary", inputs, options, ["password"], "FlushContext");
    return new PrimaryKey(this.connection, answers.number(0), answers.bytes(1), creationOf(answers, 2));
  }
  /** A new key or sealed object under `parent`. Not loaded: `load` its `privateArea` and `publicArea`. */
  async create(
    parent: TpmObject,
    template: Uint8Array,
    options: CreationOptions = {},
  ): Promise<Creation & { readonly privateArea: Uint8Array }> {
    const inputs = [parent, ...creationInputs(template, options)];
    const answers = await this.run("Create", inputs, options, ["password"]);
    return { privateArea: answers.bytes(0), ...creationOf(answers, 1) };
  }
  /** ESYS does not know the object's authValue: `setAuth` when it has one. */
  async load(
    parent: TpmObject,
    privateArea: Uint8Array,
    publicArea: Uint8Array,
    options: CommandOptions = {},
  ): Promise<TpmObject> {
    return this.#loaded(
      await this.run("Load", [parent, privateArea, publicArea], options, ["password"], "FlushContext"),
    );
  }
  /**
   * The public part, or with `sensitive` (TPMT_SENSITIVE) a whole software key, which needs the null hierarchy. A ticket made
   * under the null hierarchy is worth nothing: load keys for PolicyAuthorize under owner.
   */
  async loadExternal(
    publicArea: Uint8Array,
    hierarchy: Hierarchy,
    options: CommandOptions & { readonly sensitive?: Uint8Array } = {},
  ): Promise<TpmObject> {
    const inputs = [publicArea, hierarchy, options.sensitive ?? NOTHING];
    return this.#loaded(await this.run("LoadExternal", inputs, options, [], "FlushContext"));
  }
  /** TPMT_PUBLIC and Names, as the connection answers them. */
  async readPublic(
    object: TpmObject,
    options: CommandOptions = {},
  ): Promise<{
    publicArea: Uint8Array;
    name: Uint8Array;
    qualifiedName: Uint8Array;
  }> {
    const answers = await this.run("ReadPublic", [object], options);
    return {
      publicArea: answers.bytes(0),
      name: answers.bytes(1),
      qualifiedName: answers.bytes(2),
    };
  }
  /** Returns the private area to load under the same parent. */
  async import(
    parent: TpmObject,
    publicArea: Uint8Array,
    duplicate: Uint8Array,
    encryptedSeed: Uint8Array,
    options: InnerWrapperOptions = {},
  ): Promise<Uint8Array> {
    const inputs = [parent, publicArea, duplicate, encryptedSeed, ...wrapperInputs(options)];
    return (await this.run("Import", inputs, options, ["password"])).bytes(0);
  }
  /** For `import` under another parent; null: for none, with an empty seed. Needs a policy that has PolicyCommandCode(Duplicate). */
  async duplicate(
    object: TpmObject,
    newParent: TpmObject | null,
    options: InnerWrapperOptions = {},
  ): Promise<{ encryptionKey: Uint8Array; duplicate: Uint8Array; encryptedSeed: Uint8Array }> {
    const inputs: readonly Input[] = [object, newParent ?? "null", ...wrapperInputs(options)];
    const answers = await this.run("Duplicate", inputs, options, ["password"]);
    return { encryptionKey: answers.bytes(0), duplicate: answers.bytes(1), encryptedSeed: answers.bytes(2) };
  }
  /** Returns a new private area; what is loaded, and what was stored before, keeps the old authValue. */
  async objectChangeAuth(
    object: TpmObject,
    parent: TpmObject,
    newAuth: Uint8Array,
    options: CommandOptions = {},
  ): Promise<Uint8Array> {
    return (await this.run("ObjectChangeAuth", [object, parent, newAuth], options, ["password"])).bytes(0);
  }
  /** Keeps a transient object at a persistent handle and returns it there; evicts a persistent one, and returns null. */
  async evictControl(
    object: TpmObject,
    persistentHandle: number,
    options: CommandOptions & { readonly authority?: "owner" | "platform" } = {},
  ): Promise<TpmObject | null> {
    const inputs = [options.authority ?? "owner", object, unsigned("handle", persistentHandle, U32_MAX)];
    const answers = await this.run("EvictControl", inputs, options, ["password"], "TR_Close");
    if (answers.length > 0) return this.#loaded(answers);
    this.connection.forget(object.tr);
    return null;
  }

  /**
   * The sealed data, as a JavaScript value: it cannot be wiped reliably, since buffers are copied and moved by the collector.
   * Use `unsealToFd` for a secret. In C every copy of this package is wiped; libtss2 keeps the last response in its heap until
   * a later command overwrites it.
   */
  async unseal(object: TpmObject, options: CommandOptions = {}): Promise<Uint8Array> {
    return (await this.run("Unseal", [object], options, ["password"])).bytes(0);
  }
  /**
   * Writes the sealed data to a file descriptor, on the worker in C, and returns how many bytes it was: no JavaScript value
   * holds the data. The descriptor stays open; it must take the data at once, or the command ends in an I/O error. What
   * `unseal` says of libtss2's heap holds here too.
   */
  async unsealToFd(object: TpmObject, fd: number, options: CommandOptions = {}): Promise<number> {
    const inputs = [object, unsigned("fd", fd, 0x7fffffff)];
    return (await this.run("UnsealToFd", inputs, options, ["password"])).number(0);
  }

  #loaded(answers: Answers): TpmObject {
    return new TpmObject(this.connection, answers.number(0), answers.bytes(1));
  }
}

function creationInputs(template: Uint8Array, options: CreationOptions): readonly NativeValue[] {
  const { sensitive = {}, outsideInfo = NOTHING, creationPcrs = [] } = options;
  return [
    template,
    sensitive.auth ?? NOTHING,
    sensitive.data ?? NOTHING,
    outsideInfo,
    encodePcrSelection(creationPcrs),
  ];
}

function creationOf(answers: Answers, first: number): Creation {
  return {
    publicArea: answers.bytes(first),
    creationData: answers.bytes(first + 1),
    creationHash: answers.bytes(first + 2),
    creationTicket: answers.bytes(first + 3),
  };
}

function wrapperInputs({
  encryptionKey = NOTHING,
  symmetric = NO_WRAPPER,
}: InnerWrapperOptions): readonly NativeValue[] {
  return [encryptionKey, symmetric];
}
