import { collectEvidence, ekProfiles, encodeEvidence } from "../../attest/index.ts";
import { isOwnershipSecret } from "../../seal/index.ts";
import type { MachineAudit } from "../audit/machine-audit.ts";
import type { LivePolicy } from "../broker/index.ts";
import type { AgentConfig } from "../config.ts";
import { AgentError } from "../errors.ts";
import { machineStatus, type StatusSources } from "../machine-status.ts";
import type { Metrics } from "../metrics/metrics.ts";
import { evidenceSources, frameReport } from "../report.ts";
import type { Gathered, Sources } from "../report-sources.ts";
import { visibleDevices } from "../visible-devices.ts";
import { answerControlLine, type ControlService, MAX_REQUEST } from "./control.ts";
import { VirtioPort } from "./port.ts";

type ControlParts = Pick<ControlService, "sealing" | "restrictions" | "approvals" | "sessions" | "doctor"> & {
  /** Null until the launch serves. */
  readonly live: () => LivePolicy | null;
  readonly metrics: Pick<Metrics, "text" | "reported">;
};

/** What the control port answers from: the machine as it is when it is asked. */
export function controlService(
  {
    config,
    record,
    domains,
    audit,
    connection,
  }: Gathered & Pick<StatusSources, "connection"> & { readonly audit: MachineAudit },
  sources: Sources,
  { metrics, live, ...parts }: ControlParts,
): (report: VirtioPort) => ControlService {
  return (report) => ({
    ...parts,
    metrics: () => metrics.text(),
    status: async () => ({
      ...machineStatus({ record, audit, domains, live, connection }),
      // A list that cannot be read is a fact to show, not an end of `status`.
      devices: await visibleDevices(config).catch(() => null),
    }),
    endorsement: async () => {
      const { ekCertificates, ekKind, ak } = sources();
      return { ekCertificates, ekProfile: ekProfiles[ekKind].name, akPublic: ak.publicArea, akName: ak.name };
    },
    activate: async (credentialBlob, encryptedSecret) => {
      const { tpm, ak, ekKind } = sources();
      const secret = await tpm.activateCredential(ak, credentialBlob, encryptedSecret, ekKind);
      if (!isOwnershipSecret(secret)) return secret;
      secret.fill(0);
      throw new AgentError("ERR_CONTROL_MALFORMED", "credential", {
        expected: "a challenge",
        got: "an ownership secret",
      });
    },
    audit: async (from, limit) => audit.read(from, limit),
    challenge: async (challenge) => {
      const { tpm, ak } = sources();
      // A takeover that is under way belongs into the report: between two shims a token has none.
      await domains()?.settled();
      const evidence = encodeEvidence(await collectEvidence(tpm, ak, evidenceSources(sources()), challenge));
      await report.write(frameReport(evidence));
      metrics.reported();
      return evidence.length;
    },
  });
}

/** Answer the control port for ever, one request after the other. Starts before the launch does. */
export async function serveControl(
  config: AgentConfig,
  service: (report: VirtioPort) => ControlService,
): Promise<{ ended: Promise<never> }> {
  const control = await VirtioPort.open(config.controlPort);
  const answers = service(await VirtioPort.open(config.reportPort));
  const loop = async (): Promise<never> => {
    const lines = control.lines(MAX_REQUEST);
    for (;;) {
      const { value: line } = await lines.next();
      if (line.length > 0) await control.write(new TextEncoder().encode(`${await answerControlLine(answers, line)}\n`));
    }
  };
  return { ended: loop() };
}
