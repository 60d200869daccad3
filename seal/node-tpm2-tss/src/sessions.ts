import { U32_MAX, unsigned } from "./bytes.ts";
import type { CommandOptions, Input, SignalOptions } from "./commands.ts";
import { HASH, type HashName, type PermanentAuthority, SESSION_ATTRIBUTE, SESSION_TYPE } from "./constants.ts";
import { GeneralCommands } from "./general.ts";
import { Session, type TpmHandle, TpmObject } from "./handles.ts";

/** What a session is for. */
export interface SessionOptions extends CommandOptions {
  readonly kind: Session["kind"];
  /** Hash of the session and of its policy digest. Default sha256. */
  readonly hash?: HashName;
  /** Salts the session to this key. Worth nothing unless the key's Name was compared with a trusted one first. */
  readonly saltKey?: TpmObject;
  /** Binds the session to this authValue, which ESYS must know (`setAuth`): it then keys the session, as a salt does. */
  readonly bind?: TpmObject | PermanentAuthority;
  /** Encrypt the first response parameter (AES-128-CFB). Needs a salt to keep anything from who watches the bus. */
  readonly encrypt?: boolean;
  /** Encrypt the first command parameter. */
  readonly decrypt?: boolean;
}

const SESSION_KEY_BITS = 128;
// The first byte of the TPM's own handles: TPM_HT.
const HANDLE_TYPE = { hmacSession: 0x02, policySession: 0x03 } as const;

/** Handles, authValues, sessions, and saved contexts. */
export abstract class SessionCommands extends GeneralCommands {
  /** A persistent object or NV index by its TPM handle. Its public area is what the connection answers, unauthenticated. */
  async trFromTpmPublic(handle: number, options: CommandOptions = {}): Promise<TpmObject> {
    const answers = await this.run("TR_FromTPMPublic", [handle], options, [], "TR_Close");
    return new TpmObject(this.connection, answers.number(0), answers.bytes(1));
  }
  /** Tells ESYS an authValue, for `"password"` and HMAC sessions. Sends nothing. ESYS keeps a copy until the handle is closed. */
  async setAuth(
    authority: TpmHandle | PermanentAuthority,
    auth: Uint8Array,
    options: SignalOptions = {},
  ): Promise<void> {
    await this.run("TR_SetAuth", [authority, auth], options);
  }
  /**
   * What disposing the handle does: flushes an object or session, forgets a persistent object or NV index. One that the TPM
   * lost already, as by Clear, is forgotten.
   */
  async flushContext(handle: TpmHandle, { signal }: SignalOptions = {}): Promise<void> {
    await handle.release(signal);
  }

  /**
   * Flushes an object or a session that another connection left in a TPM without a resource manager, by the TPM's own handle: see
   * `handles`.
   */
  async flushHandle(handle: number, options: CommandOptions = {}): Promise<void> {
    await this.run("FlushHandle", [unsigned("handle", handle, U32_MAX)], options);
  }

  /** An unsalted and unbound session has no secret of its own: its HMAC then proves only the authValues of the objects used. */
  async startAuthSession(options: SessionOptions): Promise<Session> {
    const { kind, hash = "sha256", saltKey, bind, encrypt = false, decrypt = false } = options;
    const attributes =
      SESSION_ATTRIBUTE.continueSession |
      (encrypt ? SESSION_ATTRIBUTE.encrypt : 0) |
      (decrypt ? SESSION_ATTRIBUTE.decrypt : 0);
    const keyBits = encrypt || decrypt ? SESSION_KEY_BITS : 0;
    const inputs: readonly Input[] = [
      saltKey ?? "none",
      bind ?? "none",
      SESSION_TYPE[kind],
      HASH[hash],
      keyBits,
      attributes,
    ];
    const answers = await this.run("StartAuthSession", inputs, options, [], "FlushContext");
    return new Session(this.connection, answers.number(0), kind);
  }
  /** The session's newest nonceTPM, as ESYS knows it. Sends nothing. */
  async nonceTpm(session: Session, options: SignalOptions = {}): Promise<Uint8Array> {
    return (await this.run("TRSess_GetNonceTPM", [session], options)).bytes(0);
  }

  /**
   * TPMS_CONTEXT, with what ESYS knows of the handle added to its blob: only ESYS can load it again. The TPM protects its own
   * part only: ESYS's part holds the authValue in clear, and whoever changes it is not noticed. A saved object stays loaded
   * too; a saved session is gone from here, and can be loaded once.
   */
  async contextSave(handle: TpmObject | Session, options: SignalOptions = {}): Promise<Uint8Array> {
    const answers = await this.run("ContextSave", [handle], options);
    if (handle instanceof Session) this.connection.forget(handle.tr);
    return answers.bytes(0);
  }
  /** The inverse, also on another connection to the same TPM. A trial session comes back as one of kind `policy`. */
  async contextLoad(context: Uint8Array, options: SignalOptions = {}): Promise<TpmObject | Session> {
    const answers = await this.run("ContextLoad", [context], options, [], "FlushContext");
    const [tr, type] = [answers.number(0), answers.number(1) >>> 24];
    if (type === HANDLE_TYPE.hmacSession) return new Session(this.connection, tr, "hmac");
    if (type === HANDLE_TYPE.policySession) return new Session(this.connection, tr, "policy");
    return new TpmObject(this.connection, tr, answers.bytes(2));
  }
}
