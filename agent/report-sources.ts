import { readFile } from "node:fs/promises";
import type { ShimClaim } from "../attest/index.ts";
import { fromHex } from "../policy/index.ts";
import { type MachineTpm, readEpoch } from "../seal/index.ts";
import type { AuditLog } from "./audit/log.ts";
import type { AgentConfig } from "./config.ts";
import { AgentError } from "./errors.ts";
import { journal } from "./journal.ts";
import type { LaunchRecord, RecordedShim } from "./launch/environment.ts";
import type { LaunchInputs } from "./launch/inputs.ts";
import type { MeasurementLog } from "./launch/measurement-log.ts";
import { endorsementKeyKind, type ReportSources } from "./report.ts";
import type { Domains } from "./shims/domains.ts";
import type { Spawner } from "./spawner-client.ts";

export interface Gathered {
  readonly config: AgentConfig;
  readonly tpm: MachineTpm;
  readonly log: MeasurementLog;
  readonly record: LaunchRecord;
  readonly inputs: Partial<LaunchInputs>;
  readonly audit: AuditLog;
  readonly spawner: Pick<Spawner, "shimStatus">;
  /** Null until the launch serves. */
  readonly domains: () => Domains | null;
}

/** What reports are made of, asked for each time; throws where it cannot be had. */
export type Sources = () => ReportSources;

/** Without a usable endorsement key no report is made; the launch goes on, and says by name why it is refused. */
export async function openSources(gathered: Gathered): Promise<Sources> {
  try {
    const sources = await gatherSources(gathered);
    return () => sources;
  } catch (cause) {
    const got = cause instanceof Error ? cause.message : "a failure";
    journal.error(`no reports: ${got}`);
    return () => {
      throw new AgentError("ERR_ENVIRONMENT", "attestation key", {
        expected: "an endorsement key that can be used",
        got,
        hint: "the launch's reasons (`status`) and `check` say what is in the way",
        cause,
      });
    };
  }
}

async function gatherSources(gathered: Gathered): Promise<ReportSources> {
  const { config, tpm, log, record, inputs, audit } = gathered;
  const certificates = await tpm.ekCertificates();
  const [credential] = inputs.credentials?.values() ?? [];
  const ekKind = endorsementKeyKind(credential?.sealed, certificates);
  return {
    ...{ tpm, log, record, inputs, audit, system: config.system },
    ak: await tpm.createAttestationKey(config.attestationKey),
    ekKind,
    ekName: (await tpm.endorsementKey(ekKind)).name,
    ekCertificates: certificates.map(({ der }) => der),
    firmwareLog: new Uint8Array(await readFile(config.firmwareLog)),
    bootSeed: await readBootSeed(),
    shims: () => shimClaims(gathered),
    epoch: () => epochValue(tpm),
  };
}

/** The kernel draws it once, when it starts, and journald names the boot by it: an agent that is started again tells the same. */
async function readBootSeed(): Promise<Uint8Array> {
  return fromHex((await readFile("/proc/sys/kernel/random/boot_id", "utf8")).trim().replaceAll("-", ""));
}

async function epochValue({ tss }: MachineTpm): Promise<bigint | null> {
  const epoch = await readEpoch(tss);
  return epoch.kind === "present" ? epoch.value : null;
}

/** What the kernel says about the shims, through the spawner: nothing of it is a shim's own word. */
async function shimClaims({ spawner, record, domains }: Gathered): Promise<readonly ShimClaim[]> {
  const claims: ShimClaim[] = [];
  for (const shim of record.shims) {
    const process = await shimProcess(spawner, shim.id);
    const { id, token, landlock } = shim;
    claims.push({ id, token, landlock, process, role: process === null ? "ended" : roleOf(shim, domains()) });
  }
  return claims;
}

/** While a launch is under way it is what it will be. */
function roleOf({ id, serves }: RecordedShim, domains: Domains | null): ShimClaim["role"] {
  const known = domains?.shims.find((shim) => shim.id === id)?.role;
  return known ?? (serves ? "active" : "spare");
}

async function shimProcess(spawner: Pick<Spawner, "shimStatus">, id: number): Promise<ShimClaim["process"]> {
  const status = await spawner.shimStatus(id);
  if (status.state !== "running") return null;
  return {
    uid: Number(status.fields.get("Uid")?.split("\t")[0] ?? 0),
    seccompFilters: Number(status.fields.get("Seccomp_filters") ?? 0),
    inheritedFilters: status.inheritedFilters,
    capabilities: status.fields.get("CapEff") ?? "unknown",
    namespaces: status.ownNamespaces,
  };
}
