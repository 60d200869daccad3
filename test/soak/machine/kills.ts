import { setTimeout as delay } from "node:timers/promises";
import type { Fault } from "./faults.ts";
import type { SoakMachine } from "./machine.ts";
import { POWER_CYCLE, REBOOT, REBOOTS } from "./reboots.ts";
import { until } from "./waiting.ts";

/** The shim that serves. Without a spare that takes over, its login is lost and the machine reboots. */
export async function endServingShim(machine: SoakMachine, act: (pid: number) => void): Promise<void> {
  const shims = await machine.shims();
  const serving = shims.find(({ role }) => role === "active");
  if (serving === undefined) throw new Error("no shim serves");
  act(serving.pid);
  if (!shims.some(({ role }) => role === "spare")) return machine.rebootsItself(REBOOTS.asked);
  await until("a spare that has taken over", async () =>
    (await machine.shims()).some(({ role, id }) => role === "active" && id !== serving.id),
  );
}

export const shimKill: Fault = {
  may: ["token-error", "busy", ...REBOOT],
  strike: (machine) => endServingShim(machine, (pid) => process.kill(pid, "SIGKILL")),
};

export const agentKill: Fault = {
  may: REBOOT,
  strike: async (machine) => {
    process.kill(machine.desk.machine.agentPid(), "SIGKILL");
    await machine.rebootsItself(REBOOTS.gone);
  },
};

/** Workloads need no TPM; reports and the log's anchors do. Whoever has switched its TPM off and on again has another boot. */
export const tpmKill: Fault = {
  may: POWER_CYCLE,
  strike: async (machine, dice) => {
    await machine.desk.machine.tpm.kill();
    await machine.worksOn();
    await delay(2000 * dice);
    await machine.boot();
  },
};

/** A library that reaches no HSM may say what it likes; of a ciphertext no caller is told more than that it gave nothing, and each failure is counted. */
export const hsmKill: Fault = {
  may: ["token-error", "bad-ciphertext", "budget", "busy", ...POWER_CYCLE],
  strike: async (machine) => {
    await machine.desk.hsm.kill();
    await machine.rebootsItself(REBOOTS.asked, () => machine.desk.hsm.start());
  },
};

export const verifierKill: Fault = {
  may: ["report"],
  strike: async (machine, dice) => {
    await machine.verifier.kill();
    await delay(1000 + 2000 * dice);
    await machine.startVerifier();
  },
};
