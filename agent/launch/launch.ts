import { type LaunchEvent, type Reason, reasonFrom } from "../../attest/index.ts";
import { firstModule, fromHex, type NamedModule, sha256 } from "../../policy/index.ts";
import type { Shim } from "../shim-client.ts";
import { enter, type LaunchEnvironment, type LaunchRecord, Refusal, SHIM_ID } from "./environment.ts";
import type { ServedKey } from "./keys.ts";
import { checkKeys, logIn, type TokenSlot, unsealInto } from "./login.ts";
import { measureEverything } from "./measure.ts";
import type { LaunchState } from "./state.ts";

export interface Launched {
  readonly shim: Shim;
  readonly keys: readonly ServedKey[];
}

/**
 * Measure, unseal, log in, check the keys, cap. Returns the shim when serving may begin, `null` when the launch was
 * refused; `record` says why. In both cases the agent PCR is capped when this returns. When even the cap fails the
 * spawner is asked to cap and reboot, and this rejects.
 */
export async function launch(environment: LaunchEnvironment, record: LaunchRecord): Promise<Launched | null> {
  let shim: Shim | undefined;
  try {
    enter(record, { kind: "measuring" });
    const inputs = await measureEverything(environment, record);
    enter(record, { kind: "unsealing" });
    const { fds } = await environment.spawner.startShim(startRequest(firstModule(inputs.policy)));
    let slots: readonly TokenSlot[];
    try {
      shim = await environment.openShim(fds.request);
      slots = await unsealInto(environment, inputs, shim, record, fds.pin);
    } finally {
      environment.closeFd(fds.pin); // a shim that finds the pipe empty sees its end at once
    }
    await logIn(environment, inputs, shim, record, slots);
    const keys = await checkKeys(environment, inputs, shim, record, slots);
    enter(record, { kind: "capping" });
    const serving: LaunchState = { kind: "serving", scopes: inputs.policy.scopes.map((scope) => scope.name) };
    await environment.log.measure(cap("serving"), () => enter(record, serving));
    return { shim, keys };
  } catch (error) {
    const reasons = error instanceof Refusal ? error.reasons : [reasonFrom(error, `launch (${record.state.kind})`)];
    await refuse(environment, record, reasons);
    shim?.close(); // the library loses its connection, and with it everything it could be asked for
    return null;
  }
}

/** The last event of a launch: after it no signed release's PCR values can be reached in this boot. */
function cap(outcome: "serving" | "refused"): LaunchEvent {
  return { kind: "cap", name: outcome, sha256: sha256(new Uint8Array()) };
}

/** Close the agent PCR for this boot, then say why. A cap that fails leaves the sealed PIN within reach: reboot (I3). */
async function refuse(environment: LaunchEnvironment, record: LaunchRecord, reasons: readonly Reason[]): Promise<void> {
  try {
    await environment.log.measure(cap("refused"), () => {
      enter(record, { kind: "refused", reasons, answers: record.answers });
    });
  } catch (error) {
    await environment.spawner.capAndReboot("the cap of a refused launch failed");
    throw error;
  }
}

/** The spawner compares this digest with the profile that it copied itself. */
function startRequest({ profile, environment, writable }: NamedModule) {
  return {
    id: SHIM_ID,
    profileSha256: fromHex(profile.sha256),
    environment: Object.entries(environment).map(([name, value]) => `${name}=${value}`),
    writable,
    ...{ nodes: [], connect: [] },
  };
}
