import { clockJump } from "./clock.ts";
import { diskBrim, diskFull } from "./disk.ts";
import type { Word } from "./judge.ts";
import { agentKill, hsmKill, shimKill, tpmKill, verifierKill } from "./kills.ts";
import type { SoakMachine } from "./machine.ts";
import type { FaultKind } from "./plan.ts";
import { descriptors, memory } from "./pressure.ts";
import { hsmStall, shimHang } from "./stalls.ts";

/** One kind of fault, as README.md has it. */
export interface Fault {
  /** What may be seen of it until everything works again. */
  readonly may: readonly Word[];
  /**
   * Does it and takes it back. Rejects when what should follow does not.
   * @param dice from 0 to 1, of the plan: how long, which of several
   */
  strike(machine: SoakMachine, dice: number): Promise<void>;
}

export const FAULTS: Readonly<Record<FaultKind, Fault>> = {
  ...{ "shim-kill": shimKill, "agent-kill": agentKill, "tpm-kill": tpmKill, "hsm-kill": hsmKill },
  ...{ "verifier-kill": verifierKill, "hsm-stall": hsmStall, "shim-hang": shimHang },
  ...{ "disk-full": diskFull, "disk-brim": diskBrim, "clock-jump": clockJump, descriptors, memory },
};
