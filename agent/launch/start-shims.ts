import { type Reason, reason } from "../../attest/index.ts";
import { fromHex, missingFeatures, type Policy, type SandboxFeature, syscallName } from "../../policy/index.ts";
import type { Shim } from "../shim-client.ts";
import { libraryAttempts, type ProbedAttempts } from "../shims/attempts.ts";
import type { StartShim } from "../spawner-client.ts";
import { type LaunchEnvironment, type LaunchRecord, type RecordedShim, Refusal } from "./environment.ts";
import type { MeasuredInputs } from "./measure.ts";
import type { PlannedShim } from "./shim-plan.ts";

/** A shim whose process was started. */
export interface StartingShim extends PlannedShim {
  /** Write end of its credential channel. */
  readonly channel: number;
  /** Resolves when it has said what its sandbox is made with. */
  readonly opening: Promise<Shim>;
}

/** A shim whose sandbox was probed. Nothing of a library has run in it yet. */
export interface StartedShim extends PlannedShim {
  readonly shim: Shim;
  readonly channel: number;
  /** Its own attempts: whatever comes on top of them is the library's. */
  readonly probed: ProbedAttempts;
}

/** What becomes of the attempts that the kernel shows, once somebody listens. */
export interface AttemptBell {
  ring: () => void;
}

/** All shims of a launch, as far as it came: whatever happens, they are closed and their channels too. */
export class ShimSet {
  readonly #environment: LaunchEnvironment;
  readonly #ids: number[] = [];
  readonly #openings: Promise<void>[] = [];
  readonly #shims: Shim[] = [];
  readonly #channels = new Set<number>();
  /** Those that were probed. */
  readonly started: StartedShim[] = [];
  readonly bell: AttemptBell = { ring: () => undefined };

  constructor(environment: LaunchEnvironment) {
    this.#environment = environment;
  }

  /** Starts one. */
  async start(request: StartShim): Promise<Pick<StartingShim, "channel" | "opening">> {
    const { spawner, openShim } = this.#environment;
    const { fds } = await spawner.startShim(request);
    this.#ids.push(request.id);
    this.#channels.add(fds.pin);
    const opening = openShim(fds.request, () => this.bell.ring());
    this.#openings.push(opening.then((shim) => void this.#shims.push(shim)).catch(() => undefined)); // whoever awaits `opening` is told
    return { channel: fds.pin, opening };
  }

  /** A shim that finds its channel empty sees its end at once. */
  closeChannels(): void {
    for (const fd of this.#channels) this.#environment.closeFd(fd);
    this.#channels.clear();
  }

  /** Ends every one of them, and what is left in their channels with them. */
  async end(): Promise<void> {
    this.closeChannels();
    for (const shim of this.#shims) shim.close();
    // One that hangs would keep the PIN that it has not read.
    for (const id of this.#ids) await this.#environment.spawner.stopShim(id).catch(() => undefined);
    await Promise.all(this.#openings);
    for (const shim of this.#shims) shim.close();
  }
}

/** Starts the process of every shim, one after the other. @throws AgentError for one that cannot be started */
export async function startShims(shims: readonly PlannedShim[], set: ShimSet): Promise<readonly StartingShim[]> {
  const starting: StartingShim[] = [];
  for (const planned of shims) starting.push({ ...planned, ...(await set.start(startRequest(planned))) });
  return starting;
}

/** Probes every one of them, all at once. @throws Refusal, or AgentError for a shim that fails */
export async function probeShims(
  { policy }: Pick<MeasuredInputs, "policy">,
  starting: readonly StartingShim[],
  set: ShimSet,
  record: LaunchRecord,
): Promise<readonly StartedShim[]> {
  const opened = [];
  for (const planned of starting) {
    const shim = await planned.opening;
    opened.push({ ...planned, shim });
    record.shims = [...record.shims, recorded(planned, shim, () => ({}))];
    record.lacks = acceptedLacks(policy, shim);
  }
  const started = await Promise.all(
    opened.map(async ({ shim, ...planned }, place) => {
      const probed = await probeSandbox(shim, place === 0 ? record : null);
      return { ...planned, shim, probed };
    }),
  );
  record.shims = started.map((own) => recorded(own, own.shim, () => libraryAttempts(own.shim, own.probed)));
  set.started.push(...started);
  return started;
}

function recorded({ id, token, serves }: PlannedShim, shim: Shim, attempts: RecordedShim["attempts"]): RecordedShim {
  return { id, token: token.name, serves, landlock: shim.ready.landlockAbi, attempts };
}

/** The spawner compares this digest with the profile that it copied itself. */
function startRequest({ id, module }: PlannedShim): StartShim {
  const { profile, environment, writable, nodes, connect } = module;
  return {
    ...{ id, writable, nodes, connect },
    profileSha256: fromHex(profile.sha256),
    environment: Object.entries(environment).map(([name, value]) => `${name}=${value}`),
  };
}

/** What this kernel's sandbox lacks. Refuses what the policy does not do without. */
function acceptedLacks({ sandbox }: Policy, { ready }: Shim): readonly SandboxFeature[] {
  const lacks = missingFeatures(ready.landlockAbi);
  const reasons = lacks
    .filter((feature) => !sandbox.lacks.includes(feature))
    .map((feature) => reason("sandbox-weaker", feature, "a kernel that has it", `Landlock ${ready.landlockAbi}`));
  if (reasons.length > 0) throw new Refusal(reasons);
  return lacks;
}

/** The escape probe, before any code of the library runs in the shim. The first one's goes into the report. */
async function probeSandbox(shim: Shim, record: LaunchRecord | null): Promise<ProbedAttempts> {
  const probe = await shim.probe();
  const probed = { total: shim.watch.total(), counts: shim.attempts() };
  shim.watch.renew(); // the record has room for the library's attempts now
  if (record !== null) {
    record.probe = probe;
    record.witnessed = probed.counts;
  }
  const escaped = probe.filter((attempt) => attempt.errno === 0);
  const reasons = escaped.map((attempt) => reason("sandbox-escape", attempt.name, "denied", "it succeeded"));
  if (probed.total === 0)
    reasons.push(reason("probe-unseen", "escape probe", "attempts that the kernel shows", "none"));
  if (reasons.length > 0) throw new Refusal(reasons);
  return probed;
}

/** A library that tried anything gets no further: neither a PIN nor a place in service. @throws Refusal */
export function requireNoAttempts(shims: readonly StartedShim[]): void {
  const reasons = attemptReasons(shims);
  if (reasons.length > 0) throw new Refusal(reasons);
}

/** What the libraries tried so far. */
export function attemptReasons(shims: readonly StartedShim[]): readonly Reason[] {
  return shims.flatMap(({ id, token, shim, probed }) => {
    if (shim.watch.total() === probed.total) return [];
    const names = new Set(shim.watch.recorded().map(({ nr }) => syscallName(nr)));
    return [...names].map((name) =>
      reason("sandbox-violation", `${token.name}/${id} ${name}`, "no attempt at what is denied", "an attempt"),
    );
  });
}
