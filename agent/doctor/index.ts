/** Looks at a machine and says what is wrong, with the fix: README.md. */
export { type AgentStatus, agentFindings } from "./agent.ts";
export { agentPcrFinding, otherExtenders } from "./agent-pcr.ts";
export { AGENT_UID, agentProcess, agentsFiles } from "./agent-process.ts";
export { CATALOGUE, type FindingId } from "./catalogue.ts";
export { clockFinding, latestRecord } from "./clock.ts";
export { diskFindings } from "./disk.ts";
export { documentFindings, policyFindings, releaseFindings } from "./documents.ts";
export { eventLogFindings, type ReadLog, readFirmwareLog } from "./event-log.ts";
export { examine, type Look } from "./examine.ts";
export { type Files, openFiles } from "./files.ts";
export { type Finding, type FindingLevel, fail, MAX_FINDINGS, ok, warn } from "./finding.ts";
export { type KernelProbe, kernelFindings, NOT_PROBED } from "./kernel.ts";
export { permissionFindings } from "./permissions.ts";
export { parseProbe, probeKernel } from "./probe.ts";
export { type CredentialCheck, checkCredential, type ExplainedFinding, explained, sealedFindings } from "./sealed.ts";
export { tpmFindings } from "./tpm.ts";
export { weakerFindings } from "./weaker.ts";
