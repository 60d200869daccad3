import { uptime } from "node:os";
import { type MachineTpm, readEpoch } from "../../seal/index.ts";
import type { MachineAudit } from "../audit/machine-audit.ts";
import type { SealingService } from "../control/sealing.ts";
import type { LaunchEnvironment } from "../launch/environment.ts";
import { machineStatus, type StatusSources } from "../machine-status.ts";
import { agentFindings } from "./agent.ts";
import { agentPcrFinding, otherExtenders } from "./agent-pcr.ts";
import { clockFinding } from "./clock.ts";
import { diskFindings } from "./disk.ts";
import { documentFindings } from "./documents.ts";
import { eventLogFindings, readFirmwareLog } from "./event-log.ts";
import { examine, type Look } from "./examine.ts";
import { openFiles } from "./files.ts";
import type { Finding } from "./finding.ts";
import { kernelFindings, NOT_PROBED } from "./kernel.ts";
import { permissionFindings } from "./permissions.ts";
import { sealedFindings } from "./sealed.ts";
import { tpmFindings } from "./tpm.ts";
import { weakerFindings } from "./weaker.ts";

export interface RunningMachine {
  readonly environment: Pick<LaunchEnvironment, "config" | "log" | "inputs" | "now">;
  readonly tpm: MachineTpm;
  readonly configPath: string;
  readonly status: StatusSources;
  readonly audit: Pick<MachineAudit, "latest">;
  readonly sealing: Pick<SealingService, "check">;
}

/**
 * The agent's own answer to `doctor`. It reads what anybody in the machine may read and asks the TPM what needs no authorisation: nothing is
 * changed, nothing unsealed, no try spent at TPM or token, and no process is started.
 */
export function runningDoctor(machine: RunningMachine): () => Promise<readonly Finding[]> {
  const files = openFiles();
  return () => examine(looksOf(machine, files));
}

function looksOf(machine: RunningMachine, files: ReturnType<typeof openFiles>): readonly Look[] {
  const { environment, tpm, configPath, status, audit, sealing } = machine;
  const { config, log, inputs } = environment;
  const firmware = readFirmwareLog(files, config.firmwareLog);
  const now = () => new Date(environment.now());
  return [
    { id: "agent", run: () => agentFindings(machineStatus(status)) },
    { id: "tpm", run: () => tpmFindings(tpm, now()) },
    { id: "agent-pcr", run: async () => [await log.locked((records) => agentPcrFinding(tpm.tss, records, uptime()))] },
    { id: "agent-pcr-others", run: () => [otherExtenders(files, firmware.log, null)] },
    { id: "event-log", run: () => eventLogFindings(tpm, files, firmware) },
    {
      id: "landlock",
      run: () =>
        kernelFindings(
          files,
          { ...NOT_PROBED, landlock: landlockOf(status) },
          inputs.partial.policy?.sandbox.lacks ?? null,
        ),
    },
    { id: "root-not-verified", run: () => weakerFindings(files) },
    { id: "clock", run: () => [clockFinding(files, environment.now(), audit.latest())] },
    { id: "disk", run: () => diskFindings(files, config) },
    { id: "cabinet", run: async () => documentFindings(inputs, { epoch: await epochOf(tpm), now: now() }) },
    { id: "sealed", run: async () => sealedFindings(await sealing.check()) },
    { id: "permissions", run: () => permissionFindings(files, config, configPath) },
  ];
}

/** As the first shim was told by the kernel; null before there is one. */
function landlockOf({ record }: StatusSources): number | null {
  return record.shims[0]?.landlock ?? null;
}

async function epochOf({ tss }: RunningMachine["tpm"]): Promise<bigint | null> {
  const epoch = await readEpoch(tss);
  return epoch.kind === "present" ? epoch.value : null;
}
