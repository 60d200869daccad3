import { join } from "node:path";
import { knownHead, verifyAudit } from "../../../agent/audit/verify.ts";
import { parseClaims, parseEvidence } from "../../../attest/index.ts";
import { toHex } from "../../../policy/index.ts";
import { readLedger } from "./ledger.ts";
import type { SoakMachine } from "./machine.ts";
import { CALLER_UID } from "./scopes.ts";

/** The audit log's heads in the reports that the verifier kept, by number. */
export async function reportedHeads({ verifier }: SoakMachine): Promise<ReadonlyMap<number, string>> {
  const reports = (await verifier.get("/v1/machines/vm-1/reports")) as readonly { readonly id: string }[];
  const heads = new Map<number, string>();
  for (const { id } of reports) {
    const bytes = await verifier.report("vm-1", Number(id));
    const { seq, hash } = parseClaims(parseEvidence(bytes).claims).asserted.audit;
    for (const [at, known] of knownHead({ seq, hash: toHex(hash) })) heads.set(at, known);
  }
  return heads;
}

/** Of a machine that is switched off: what its log does not have, and what it has that nobody asked for. */
export async function logFindings(
  machine: SoakMachine,
  heads: ReadonlyMap<number, string>,
  ledgerFile: string,
): Promise<readonly string[]> {
  const findings: string[] = [];
  const recorded = new Map<string, number>();
  try {
    verifyAudit(auditDirectory(machine), heads, ({ record }) => {
      const { decision, operation, caller, scope, inputDigest } = record;
      if (decision !== "allow" || caller?.uid !== CALLER_UID) return;
      if (!["sign", "decrypt", "unwrap"].includes(operation)) return;
      const key = `${scope} ${inputDigest}`;
      recorded.set(key, (recorded.get(key) ?? 0) + 1);
    });
  } catch (error) {
    findings.push(`the audit log: ${error instanceof Error ? error.message : String(error)}`);
  }
  const ledger = await readLedger(ledgerFile);
  for (const [key, { asked, acknowledged }] of ledger) {
    const records = recorded.get(key) ?? 0;
    if (records < acknowledged) findings.push(`${key}: ${acknowledged} acknowledged, ${records} in the audit log`);
    if (records > asked) findings.push(`${key}: asked ${asked} times, ${records} in the audit log`);
  }
  for (const key of recorded.keys()) if (!ledger.has(key)) findings.push(`${key}: in the audit log, and never asked`);
  return findings;
}

export function auditDirectory({ desk }: SoakMachine): string {
  return join(desk.machine.directory, "inside/audit");
}
