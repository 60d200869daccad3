import { type DeviceChange, type Reason, reason } from "../../attest/index.ts";
import type { Store } from "../../seal/index.ts";
import { AgentError } from "../errors.ts";
import { journal } from "../journal.ts";
import type { Shim } from "../shim-client.ts";
import type { ArrivingKey } from "./arrivals.ts";
import type { DomainEnd } from "./domain-end.ts";
import type { DomainShim, KeyPlace, ShimState } from "./domain-shim.ts";
import type { IncidentLog } from "./incidents.ts";
import { forgetRecoveries, GOOD_AFTER, recover, withheld } from "./recovery.ts";
import { TrustDomain } from "./trust-domain.ts";

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
  /** What else there is to say of a machine that has stopped. */
  readonly onReasons: (reasons: readonly Reason[]) => Promise<void>;
}

/** A token as `status` shows it. */
export interface TokenStatus {
  readonly name: string;
  readonly served: boolean;
  /** Requests that wait for it. */
  readonly waiting: number;
  readonly shims: readonly Omit<ShimState, "token">[];
  /** Why it is no longer served, and why nothing follows from that which the policy asks for. */
  readonly reasons: readonly Reason[];
}

/** All tokens of a machine that serves, each a trust domain of its own: what ends one leaves the others alone. */
export class Domains {
  readonly #options: DomainsOptions;
  readonly #domains: ReadonlyMap<string, TrustDomain>;
  /** By the name of the key that came in by unwrap. */
  readonly #arrived = new Map<string, TrustDomain>();
  readonly #reasons: Reason[] = [];
  /** By token: why its loss led to no reboot. */
  readonly #withheld = new Map<string, readonly Reason[]>();
  #unreadable: Reason | null = null;
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
    const domain = this.#find(key);
    return domain === null ? Promise.reject(gone(key)) : domain.use(key, act);
  }

  /** See {@link TrustDomain.arrive}. */
  async arrive(key: ArrivingKey): Promise<void> {
    const domain = this.#domainOf(key.by);
    await domain.arrive(key);
    this.#arrived.set(key.name, domain);
  }

  /** See {@link TrustDomain.reserve}. */
  reserve(key: string): Disposable | null {
    return this.#find(key)?.reserve() ?? null;
  }

  #find(key: string): TrustDomain | null {
    return this.#domains.get(this.#options.keys.get(key) ?? "") ?? this.#arrived.get(key) ?? null;
  }

  /** @throws AgentError ERR_KEY_GONE */
  #domainOf(key: string): TrustDomain {
    const domain = this.#find(key);
    if (domain !== null) return domain;
    throw gone(key);
  }

  /** In the order of their ids. */
  get shims(): readonly ShimState[] {
    return [...this.#domains.values()].flatMap(({ shims }) => shims).sort((a, b) => a.id - b.id);
  }

  get status(): readonly TokenStatus[] {
    return [...this.#domains.values()].map(({ token, end, shims, waiting }) => ({
      name: token,
      served: end === null,
      waiting,
      shims: shims.map(({ id, role }) => ({ id, role })),
      reasons: [...(end?.reasons ?? []), ...(this.#withheld.get(token) ?? [])],
    }));
  }

  /** What is wrong with a machine that serves on. */
  get warnings(): readonly Reason[] {
    return this.#unreadable === null ? [] : [this.#unreadable];
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

  /** Nobody sees any more which devices there are: under `kill` as if one had come. Told once a boot. */
  devicesUnreadable(why: string): void {
    if (this.#unreadable !== null) return;
    const { incidents, onViolation } = this.#options;
    this.#unreadable = reason("devices-unreadable", "devices", "lists that can be read", why);
    journal.error(`devices-unreadable: ${why}`);
    const written = incidents.devicesUnreadable(why);
    if (onViolation === "kill") this.#stopAll([this.#unreadable], written);
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
    if (end.kind === "lost") this.#withheld.set(end.token, this.#recover(end));
    const reasons = [...end.reasons, ...(this.#withheld.get(end.token) ?? [])];
    this.#reasons.push(...reasons);
    const text = reasons.map(({ code, item, got }) => `${code} ${item} (${got})`).join("; ");
    journal.error(`token ${end.token} is no longer served: ${text}`);
    this.#left -= 1;
    if (this.#left === 0) await this.#options.onStopped([...this.#reasons]);
  }

  /** One reboot heals all tokens. */
  #recover({ token }: DomainEnd): readonly Reason[] {
    if (this.#rebooting) return [];
    const { onLoginLost, incidents, store } = this.#options;
    const why = `login lost: token ${token}`;
    const capAndReboot = (text: string) => this.#reboot(token, text);
    const without = recover({ onLoginLost, violated: incidents.violated, store, capAndReboot, why });
    this.#rebooting = onLoginLost === "reboot" && without.length === 0;
    return without;
  }

  /** A violation while the reboot was waited for keeps its log as one before the loss does. */
  async #reboot(token: string, why: string): Promise<void> {
    const { incidents, capAndReboot, onReasons } = this.#options;
    if (!incidents.violated) return capAndReboot(why);
    const reasons = [withheld()];
    this.#withheld.set(token, reasons);
    this.#reasons.push(...reasons);
    journal.error(`recovery-withheld: ${why}`);
    if (this.#left === 0) await onReasons(reasons);
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

function gone(key: string): AgentError {
  return new AgentError("ERR_KEY_GONE", "key", {
    expected: "a key that the launch checked, or that arrived",
    got: key,
  });
}
