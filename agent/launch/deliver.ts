import { reason } from "../../attest/index.ts";
import type { NamedModule } from "../../policy/index.ts";
import { type LaunchEnvironment, type LaunchRecord, Refusal } from "./environment.ts";
import type { MeasuredInputs } from "./measure.ts";
import { type PlannedShim, planShims } from "./shim-plan.ts";
import {
  probeShims,
  requireNoAttempts,
  type ShimSet,
  type StartedShim,
  type StartingShim,
  startShims,
} from "./start-shims.ts";
import { findTokens, neededCredential, type TokenShim } from "./tokens.ts";
import { STATE_CREDENTIAL } from "./tpm-check.ts";
import { prepareAhead, type UnsealOrder, unsealCredential } from "./unseal.ts";

/** Has the TPM send one credential to several shims at once: it unseals each one a single time. */
type Deliver = (name: string, sinks: readonly number[]) => Promise<void>;
type Order = (name: string) => UnsealOrder;

/**
 * Start and probe the shims, deliver the libraries' files, load them, find every token that a PIN is for, open the state volume, and have the
 * TPM send the PINs into the shims' channels. All of them, before the first log-in: a `token` event moves the agent PCR, and from then on the
 * TPM releases nothing.
 * @throws Refusal, or AgentError for a shim that fails
 */
export async function deliverCredentials(
  environment: LaunchEnvironment,
  inputs: MeasuredInputs,
  set: ShimSet,
  record: LaunchRecord,
): Promise<readonly TokenShim[]> {
  const { release, anchors, policy } = inputs;
  const order: Order = (name) => ({ credential: neededCredential(inputs, name), release, anchors });
  const planned = planShims(policy);
  // Beside the shims' start; but files have unsealers of their own, and a TPM without a resource manager has three places for objects.
  const hasFiles = planned.some(({ module }) => Object.keys(module.files).length > 0);
  let ahead = hasFiles ? null : prepareFirst(environment, order, planned);
  const shims = await probeShims(inputs, await startShims(planned, set), set, record);
  const deliver: Deliver = (name, sinks) => unsealCredential(environment, record, order(name), sinks);
  await deliverFiles(shims, deliver);
  ahead ??= prepareFirst(environment, order, planned);
  const loaded = await Promise.all(shims.map(loadLibrary));
  const found = findTokens(inputs, loaded);
  // A library that attacks while it is loaded never sees a PIN.
  requireNoAttempts(shims);
  await environment.stateVolume?.open((sink) => deliver(STATE_CREDENTIAL, [sink]));
  for (const own of byToken(found)) {
    const { name, pin } = own[0].token;
    const unsealer = ahead === name ? environment.unsealer : null;
    await unsealCredential(environment, record, order(pin), channelsOf(own), unsealer);
  }
  return found;
}

/** For the first token, whose name this returns; null when its credential has to be imported first. */
function prepareFirst(environment: LaunchEnvironment, order: Order, shims: readonly PlannedShim[]): string | null {
  const [own] = byToken(shims);
  if (own === undefined) return null;
  const { name, pin } = own[0].token;
  return prepareAhead(environment, order(pin), own.length) ? name : null;
}

function channelsOf(shims: readonly Pick<StartingShim, "channel">[]): readonly number[] {
  return shims.map(({ channel }) => channel);
}

/** Each module's files, once for all of its shims, in the order of their paths. */
async function deliverFiles(shims: readonly StartedShim[], deliver: Deliver): Promise<void> {
  for (const own of Map.groupBy(shims, ({ module }) => module.name).values()) {
    const files = Object.entries(own[0]?.module.files ?? {}).sort(([a], [b]) => (a < b ? -1 : 1));
    for (const [path, name] of files) {
      await deliver(name, channelsOf(own));
      await Promise.all(own.map(({ shim }) => shim.credential(path)));
    }
  }
}

async function loadLibrary(started: StartedShim) {
  const loaded = await started.shim.load(started.module.path);
  checkMapped(started.module, loaded.objects);
  return [started, loaded] as const;
}

/** The kernel maps this into every process; it is no file. */
const KERNEL_OBJECT = "linux-vdso.so.1";

/**
 * What the loader mapped lies inside the pin. The private root makes sure of it; this catches a mistake in the pin, not a
 * hostile library, whose process says it.
 */
function checkMapped({ path: library, closure }: NamedModule, objects: readonly string[]): void {
  const foreign = objects.filter((path) => path !== library && path !== KERNEL_OBJECT && !Object.hasOwn(closure, path));
  if (foreign.length > 0)
    throw new Refusal(foreign.map((path) => reason("unpinned-object", path, "a pinned path", "mapped")));
}

/** The shims of each token, those that serve before its spares; tokens in the order of their names. */
export function byToken<T extends PlannedShim>(shims: readonly T[]): readonly (readonly [T, ...T[]])[] {
  return [...Map.groupBy(shims, ({ token }) => token.name).values()].flatMap(([first, ...others]) =>
    first === undefined ? [] : [[first, ...others] as const],
  );
}
