import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { cli } from "../support/cli.ts";
import { type DrillDesk, enrolMachine, openDrillDesk, pushReport, signedByCaller } from "../support/drill-desk.ts";
import { type DrillRun, runDrill } from "../support/drill-document.ts";
import { isRoot } from "../support/socket-workload.ts";
import { startVerifier, type VerifierProcess } from "../support/verifier-process.ts";

// "Restart everything" of agent/docs/drills.md: a real agent, real shims and relays, an HSM's daemon and a verifier service, each a process of
// its own that is killed. The test is the service manager and the hypervisor: it starts what they would start, and nothing else.

const PARTS = ["agent", "shim", "hsm", "verifier"] as const;
type Part = (typeof PARTS)[number];

let desk: DrillDesk;
let verifier: VerifierProcess;

const at = (name: string) => desk.at(name);
const boot = () => desk.machine.start(at("image-1"));
/** Of the spawner, when it has capped and reboots (SPAWNER.md): because its agent is gone, or because its agent asked for it. */
const REBOOTS = { gone: 10, asked: 12 } as const;

/** As the hypervisor does it, whenever the machine reboots. */
async function bootWhenEnded(why: keyof typeof REBOOTS): Promise<void> {
  expect(await desk.machine.ended(), "capped, then rebooted").toBe(REBOOTS[why]);
  await boot();
}
const startService = async () => {
  verifier = await startVerifier(desk.verifier);
};

const kill: Readonly<Record<Part, () => unknown>> = {
  agent: () => process.kill(desk.machine.agentPid(), "SIGKILL"),
  shim: () => desk.machine.shimPids()[0] !== undefined && process.kill(desk.machine.shimPids()[0] ?? 0, "SIGKILL"),
  hsm: () => desk.hsm.kill(),
  verifier: () => verifier.kill(),
};

const status = async (...words: readonly string[]) => {
  const { code, out } = await cli(["status", "--machine", at("vm-1"), "--json", ...words]);
  return { code, ...(JSON.parse(out) as { state: string; tokens: readonly { shims: readonly { role: string }[] }[] }) };
};
const rolesIn = ({ tokens }: Awaited<ReturnType<typeof status>>) => tokens[0]?.shims.map(({ role }) => role);
const pushed = () => pushReport(desk);
const lastReport = async () => ((await verifier.get("/v1/machines/vm-1")) as { lastReport: string | null }).lastReport;

beforeAll(async () => {
  desk = await openDrillDesk();
  await startService();
  await boot();
  expect((await status("--wait", "120")).state).toBe("serving");
  await enrolMachine(desk);
  await pushed();
});
afterAll(async () => {
  await verifier?.stop();
  await desk?.[Symbol.asyncDispose]();
});

const acts: DrillRun["acts"] = {
  "The verifier is killed.": async () => kill.verifier(),
  "The verifier is started.": startService,
  "A shim is killed.": async () => {
    await kill.shim();
    await expect.poll(async () => rolesIn(await status()), { timeout: 60_000 }).toEqual(["ended", "active"]);
  },
  "The agent is killed.": async () => {
    await kill.agent();
    await bootWhenEnded("gone");
  },
  "The HSM is switched off, and an application asks for a signature.": async () => {
    await kill.hsm();
    expect(await signedByCaller(desk)).toBe(false);
    await expect.poll(async () => (await status()).state, { timeout: 60_000 }).toBe("stopped");
  },
  "The HSM is switched on, and the machine reboots by itself.": async () => {
    await desk.hsm.start();
    await bootWhenEnded("asked");
  },
  "All four are killed, in every order.": async () => {
    for (const order of ordersOf(PARTS)) await inThisOrder(order);
  },
};

async function inThisOrder(order: readonly Part[]): Promise<void> {
  const before = await lastReport();
  for (const part of order) await kill[part]();
  expect(await desk.machine.ended(), `${order}: capped, then rebooted`).toBe(REBOOTS.gone);
  desk.machine.forgetLosses();
  await Promise.all([desk.hsm.start(), startService()]);
  await boot();
  const { state } = await status("--wait", "120");
  expect([order, state, desk.machine.console()]).toEqual([order, "serving", expect.anything()]);
  if (isRoot) expect(await signedByCaller(desk), `${order}: signs`).toBe(true);
  await pushed();
  expect(await lastReport(), `${order}: reports`).not.toBe(before);
}

function ordersOf<T>(parts: readonly T[]): readonly (readonly T[])[] {
  if (parts.length < 2) return [parts];
  return parts.flatMap((first) => ordersOf(parts.filter((part) => part !== first)).map((rest) => [first, ...rest]));
}

describe("agent/docs/drills.md, as it stands there", () => {
  // without root there is no second user whom the agent could tell from nobody, and so no application
  it.skipIf(!isRoot)(
    "I3 I11: agent, shim, HSM and verifier are killed, and the service comes back alone or says why not",
    async () => {
      await runDrill("Restart everything", {
        directory: desk.directory,
        environment: { VERIFIER: desk.verifier.url },
        acts,
      });
    },
  );
});
