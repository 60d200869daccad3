import { type OpenLogin, openLogin } from "../../seal/index.ts";
import type { LaunchEnvironment } from "./environment.ts";
import { tpmStep } from "./unseal.ts";

/** The login records of a launch: each is opened before its PIN is tried, and closed when the launch has ended. */
export class LoginRecords implements AsyncDisposable {
  readonly #tss: LaunchEnvironment["tss"];
  readonly #opened = new Map<string, OpenLogin>();

  constructor({ tss }: Pick<LaunchEnvironment, "tss">) {
    this.#tss = tss;
  }

  /** @param pin name of the credential. @throws SealError, see `openLogin` */
  async open(pin: string): Promise<OpenLogin> {
    const opened = this.#opened.get(pin) ?? (await tpmStep("login record", () => openLogin(this.#tss, pin)));
    this.#opened.set(pin, opened);
    return opened;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const opened of this.#opened.values()) await opened[Symbol.asyncDispose]();
  }
}
