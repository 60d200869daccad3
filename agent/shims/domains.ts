import { type DeviceChange, type Reason, reason } from "../../attest/index.ts";
import type { Store } from "../../seal/index.ts";
import { AgentError } from "../errors.ts";
import type { Shim } from "../shim-client.ts";
import type { IncidentLog } from "./incidents.ts";
import { forgetRecoveries, GOOD_AFTER, recover } from "./recovery.ts";
import { type DomainEnd, type DomainShim, type KeyPlace, type ShimState, TrustDomain } from "./trust-domain.ts";

/** A token after a good launch. */
export interface OpenedToken {
  readonly name: string;
  readonly shims: readonly DomainShim[];
}

export interface DomainsOptions {
  readonly tokens: readonly OpenedToken[];
  /** The policy's name of each key to that of its token. */
  readonly keys: ReadonlyMap<string, string>;
  readonly onViolation: "kill" | "report";
  readonly onLoginLost: "reboot" | "stop";
  readonly incidents: IncidentLog;
  readonly stopShim: (id: number) => Promise<void>;
  readonly capAndReboot: (reason: string) => Promise<void>;
  /** Null where nothing is kept from boot to boot. */
  readonly store: Store | null;
  /** Called once, when no token is served any more. */
  readonly onStopped: (reasons: readonly Reason[]) => Promise<void>;
}

/** A token as `status` shows it. */
export interface TokenStatus {
  readonly name: string;
  readonly served: boolean;
  readonly shims: readonly Omit<ShimState, "token">[];
  /** Why it is no longer served. */
  readonly reasons: readonly Reason[];
}

/** All tokens of a machine that serves, each a trust domain of its own: what ends one leaves the others alone. */
export class Domains {
  readonly #options: DomainsOptions;
  readonly #domains: ReadonlyMap<string, TrustDomain>;
  readonly #reasons: Reason[] = [];
  #left: number;
  #rebooting = false;

  constructor(options: DomainsOptions) {
    const { tokens, onViolation, incidents, stopShim } = options;
    this.#options = options;
    this.#left = tokens.length;
    this.#domains = new Map(
      tokens.map(({ name, shims }) => [
        name,
        new TrustDomain({
          ...{ token: name, shims, onViolation, incidents, stopShim },
          onEnd: (end) => this.#ended(end),
        }),
      ]),
    );
    setTimeout(() => this.#settleRecoveries(), GOOD_AFTER).unref();
  }

  /** See {@link TrustDomain.use}. */
  use<T>(key: string, act: (shim: Shim, place: KeyPlace) => Promise<T>): Promise<T> {
    const domain = this.#domains.get(this.#options.keys.get(key) ?? "");
    if (domain !== undefined) return domain.use(key, act);
    return Promise.reject(new AgentError("ERR_LAUNCH", "key", { expected: "a key that the launch checked", got: key }));
  }

  /** See {@link TrustDomain.reserve}. */
  reserve(key: string): Disposable | null {
    const domain = this.#domains.get(this.#options.keys.get(key) ?? "");
    return domain === undefined ? null : domain.reserve();
  }

  /** In the order of their ids. */
  get shims(): readonly ShimState[] {
    return [...this.#domains.values()].flatMap(({ shims }) => shims).sort((a, b) => a.id - b.id);
  }

  get status(): readonly TokenStatus[] {
    return [...this.#domains.values()].map(({ token, end, shims }) => ({
      name: token,
      served: end === null,
      shims: shims.map(({ id, role }) => ({ id, role })),
      reasons: end?.reasons ?? [],
    }));
  }

  /** The kernel showed an attempt of one of the shims. */
  checkAttempts(): void {
    for (const domain of this.#domains.values()) domain.checkAttempts();
  }

  /**
   * Devices came or went. One that came is a violation like a library's attempt, of nobody's in particular: under `kill` every token is
   * stopped. One that went takes something away, and if it was an HSM the login says so by itself.
   */
  devicesChanged(changes: readonly DeviceChange[]): void {
    const { incidents, onViolation } = this.#options;
    const logged = Promise.all(changes.map(({ device, change }) => incidents.device(device, change)));
    const written = logged.then(() => undefined).catch((error: unknown) => this.#notMeasured(error));
    const added = changes.filter(({ change }) => change === "added");
    if (onViolation === "kill" && added.length > 0)
      this.#stopAll(
        added.map(({ device }) => reason("device-foreign", device, "the devices of the launch", "another one")),
        written,
      );
  }

  /** Resolves when neither a takeover nor a record is under way. */
  async settled(): Promise<void> {
    await Promise.all([...this.#domains.values()].map((domain) => domain.settled()));
  }

  /** Closes every shim's connection; the processes end with it. */
  close(): void {
    for (const domain of this.#domains.values()) domain.close();
  }

  #stopAll(reasons: readonly Reason[], logged: Promise<void>): void {
    for (const domain of this.#domains.values()) domain.stopForViolation(reasons, logged);
  }

  #notMeasured(error: unknown): void {
    const got = error instanceof Error ? error.message : "unknown failure";
    const reasons = [reason("incident-not-measured", "devices", "an event in the agent PCR", got)];
    this.#stopAll(reasons, Promise.resolve());
  }

  async #ended(end: DomainEnd): Promise<void> {
    this.#reasons.push(...end.reasons, ...(end.kind === "lost" ? this.#recover(end) : []));
    const text = end.reasons.map(({ code, item, got }) => `${code} ${item} (${got})`).join("; ");
    console.error(`agent: token ${end.token} is no longer served: ${text}`);
    this.#left -= 1;
    if (this.#left === 0) await this.#options.onStopped([...this.#reasons]);
  }

  /** One reboot heals all tokens. */
  #recover({ token }: DomainEnd): readonly Reason[] {
    if (this.#rebooting) return [];
    const { onLoginLost, incidents, store, capAndReboot } = this.#options;
    const why = `login lost: token ${token}`;
    const without = recover({ onLoginLost, violated: incidents.violated, store, capAndReboot, why });
    this.#rebooting = onLoginLost === "reboot" && without.length === 0;
    return without;
  }

  #settleRecoveries(): void {
    const { store, tokens } = this.#options;
    if (store === null || this.#left < tokens.length) return;
    try {
      forgetRecoveries(store);
    } catch {
      // the count stays: the machine gives up earlier, not later
    }
  }
}
