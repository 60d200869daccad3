import { setTimeout as delay } from "node:timers/promises";
import type { Fault } from "./faults.ts";
import { endServingShim, shimKill } from "./kills.ts";

/** Shorter than what a request may take. */
export const hsmStall: Fault = {
  may: [],
  strike: async ({ desk: { hsm } }, dice) => {
    hsm.pause();
    try {
      await delay(1000 + 3000 * dice);
    } finally {
      hsm.resume();
    }
  },
};

/** A library that never comes back: the agent gives its shim up. */
export const shimHang: Fault = {
  may: shimKill.may,
  strike: (machine) => endServingShim(machine, (pid) => process.kill(pid, "SIGSTOP")),
};
