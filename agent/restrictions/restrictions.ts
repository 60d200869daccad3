import { launchEvent } from "../../attest/index.ts";
import {
  ByteWriter,
  describeChange,
  findScope,
  type Policy,
  type Release,
  requireNarrowing,
  sha256,
  toHex,
  verifyPolicy,
} from "../../policy/index.ts";
import { EVERYTHING, freezeHex, type MachineTpm, readFreeze, setFreeze } from "../../seal/index.ts";
import type { AuditLog } from "../audit/log.ts";
import type { LivePolicy } from "../broker/live-policy.ts";
import { AgentError } from "../errors.ts";
import type { MeasurementLog } from "../launch/measurement-log.ts";
import { tpmStep } from "../launch/unseal.ts";
import type { Turns } from "../turns.ts";

/** What is to be stopped: everything, or scopes by name. */
export type FreezeOrder = { readonly kind: "all" } | { readonly kind: "scopes"; readonly scopes: readonly string[] };

export interface FreezeReport {
  /** What this boot refuses: everything, or these scopes, in the policy's order. */
  readonly all: boolean;
  readonly scopes: readonly string[];
  /** The TPM's bits as they are now, 16 hexadecimal digits: what the next boot begins with. Null: not there, so it will serve nothing. */
  readonly bits: string | null;
  /** Bit of each scope of the policy; null for one that can be frozen with everything only. */
  readonly freezeBits: Readonly<Record<string, number | null>>;
}

export interface NarrowReport {
  readonly serial: number;
  /** Of the document in force, hexadecimal. */
  readonly sha256: string;
  /** What it narrows, a line each. */
  readonly changes: readonly string[];
}

interface RestrictionParts {
  readonly tss: MachineTpm["tss"];
  readonly log: Pick<MeasurementLog, "measure">;
  readonly audit: Pick<AuditLog, "append">;
  /** The launched policy, as soon as it was read. */
  readonly policy: () => Policy | undefined;
  /** The release in force: its key signs narrowings. */
  readonly release: () => Release | undefined;
  readonly turns: Turns;
  /** Told what holds without a record: the log has failed, and with it everything that is signed. */
  readonly unrecorded: (what: string) => void;
}

/** Narrowings of one boot: the agent log, which reports carry whole, holds an event for each. */
const MAX_NARROWINGS = 64;
const ALL_BITS = (1n << 64n) - 1n;

/**
 * What is taken away while a machine runs: scopes are frozen, the policy is narrowed. Neither is given back in the same boot. In this order:
 * it holds, the TPM keeps it (freezing), it is recorded, it is measured. What fails on that way leaves it in force, and is told.
 */
export class Restrictions {
  readonly #parts: RestrictionParts;
  #live: LivePolicy | null = null;
  #mask = 0n;
  #narrowings = 0;

  constructor(parts: RestrictionParts) {
    this.#parts = parts;
  }

  /**
   * Takes over the policy that is about to be served, behind the cap: what the TPM has frozen is frozen in it from the first request on. Where
   * nothing is known, everything is.
   */
  begin(live: LivePolicy): Promise<void> {
    return this.#parts.turns(async () => {
      const state = await tpmStep("freeze bits", () => readFreeze(this.#parts.tss));
      this.#live = live;
      await this.#apply(this.#mask | (state.kind === "bits" ? state.bits : ALL_BITS), "since before this boot");
    });
  }

  /**
   * @throws AgentError ERR_FREEZE for a scope that cannot be frozen by itself; SealError ERR_SEAL_RECORD, ERR_SEAL_TPM when the TPM does not
   * keep it: then it holds until the boot ends
   */
  freeze(order: FreezeOrder): Promise<FreezeReport> {
    return this.#parts.turns(async () => {
      const bits = this.#bitsOf(order);
      // It holds at the first line of `apply`, before anything is awaited; the TPM keeps it whatever becomes of record and event.
      const applying = this.#apply(this.#mask | bits, "by whoever reached the control port");
      const keeping = tpmStep("freeze bits", () => setFreeze(this.#parts.tss, bits));
      for (const done of await Promise.allSettled([keeping, applying]))
        if (done.status === "rejected") throw done.reason;
      return this.#report();
    });
  }

  status(): Promise<FreezeReport> {
    return this.#parts.turns(() => this.#report());
  }

  /**
   * Puts a narrower policy into force, until the boot ends.
   * @param envelope signed by the key of the release in force
   * @throws PolicyError ERR_ENVELOPE_..., ERR_POLICY_...; ERR_POLICY_WIDENS with everything that it would allow; AgentError ERR_LAUNCH, ERR_FREEZE
   */
  narrow(envelope: Uint8Array): Promise<NarrowReport> {
    return this.#parts.turns(async () => {
      const [live, release] = [this.#live, this.#parts.release()];
      if (live === null || release === undefined)
        throw new AgentError("ERR_LAUNCH", "launch", { expected: "serving", got: "another state" });
      const { policy, bytes } = await verifyPolicy(envelope, release.releaseKey);
      const before = live.current;
      const changes = requireNarrowing(before, policy).map((change) => describeChange(change, before));
      if (this.#narrowings >= MAX_NARROWINGS)
        throw new AgentError("ERR_FREEZE", "narrowing", {
          expected: `at most ${MAX_NARROWINGS} in a boot`,
          got: "more",
        });
      this.#narrowings += 1;
      live.narrow(policy);
      const digest = sha256(bytes);
      const said = `serial ${policy.serial}, sha256:${toHex(digest)}: ${changes.join("; ")}`;
      await this.#record("narrow", "policy", said);
      await this.#parts.log.measure(launchEvent("narrowed", `policy ${policy.serial}`, digest));
      // A scope may have been given a bit that is set.
      await this.#apply(this.#mask, "by its new freezeBit");
      return { serial: policy.serial, sha256: toHex(digest), changes };
    });
  }

  #bitsOf(order: FreezeOrder): bigint {
    if (order.kind === "all") return EVERYTHING;
    const policy = this.#live?.current ?? this.#parts.policy();
    return order.scopes.reduce((mask, name) => mask | (1n << BigInt(requireBit(policy, name))), 0n);
  }

  /** Frozen before anything is awaited; then each that was not is recorded and measured. */
  async #apply(mask: bigint, why: string): Promise<void> {
    this.#mask = mask;
    const live = this.#live;
    if (live === null) return;
    const all = (mask & EVERYTHING) !== 0n;
    const scopes = frozenScopes(live.current, mask);
    const fresh = [
      ...(all && !live.frozen.all ? ["*"] : []),
      ...scopes.filter((name) => !live.frozen.scopes.has(name)),
    ];
    live.freeze({ all, scopes: new Set(scopes) });
    const bits = new ByteWriter().u64(mask).finish();
    for (const name of fresh) {
      await this.#record("freeze", name, `frozen ${why}`);
      await this.#parts.log.measure(launchEvent("narrowed", `freeze ${name}`, sha256(bits)));
    }
  }

  /** A log that cannot be written stops every operation by itself; what was stopped stays so all the same, and that is said. */
  async #record(operation: "freeze" | "narrow", scope: string, reason: string): Promise<void> {
    const nothing = { caller: null, key: null, mechanism: null, inputDigest: null, step: null, approvals: [] } as const;
    const entry = { ...nothing, operation, scope, decision: "deny", reason } as const;
    await this.#parts.audit.append(entry, "written").catch((error: unknown) => {
      const cause = error instanceof Error ? error.message : "unknown failure";
      this.#parts.unrecorded(`${operation} ${scope} holds, and has no audit record: ${cause}`);
    });
  }

  async #report(): Promise<FreezeReport> {
    const state = await tpmStep("freeze bits", () => readFreeze(this.#parts.tss));
    const policy = this.#live?.current ?? this.#parts.policy();
    const scopes = policy?.scopes ?? [];
    return {
      all: (this.#mask & EVERYTHING) !== 0n,
      scopes: policy === undefined ? [] : frozenScopes(policy, this.#mask),
      bits: state.kind === "bits" ? freezeHex(state.bits) : null,
      freezeBits: Object.fromEntries(scopes.map(({ name, freezeBit }) => [name, freezeBit ?? null])),
    };
  }
}

function frozenScopes({ scopes }: Policy, mask: bigint): readonly string[] {
  return scopes.flatMap(({ name, freezeBit }) =>
    freezeBit !== undefined && (mask & (1n << BigInt(freezeBit))) !== 0n ? [name] : [],
  );
}

/** @throws AgentError ERR_FREEZE */
export function requireBit(policy: Policy | undefined, name: string): number {
  const scope = policy === undefined ? null : findScope(policy, name);
  if (scope?.freezeBit !== undefined) return scope.freezeBit;
  throw new AgentError("ERR_FREEZE", `scope ${name}`, {
    expected: "a scope of the policy with a freezeBit",
    got: scope === null ? "none of that name" : "none",
    hint: "one without a freezeBit can only be frozen with everything (`--all`)",
  });
}
