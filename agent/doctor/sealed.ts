import type { Tpm as Tss } from "node-tpm2-tss";
import { AGENT_PCR, type Anchors, type Release } from "../../policy/index.ts";
import {
  adviceFor,
  blocks,
  type Credential,
  diagnoseBlob,
  diagnoseUnseal,
  readTpmState,
  type UnsealFinding,
} from "../../seal/index.ts";
import { type Finding, fail, ok, warn } from "./finding.ts";

/** A finding with what an operator wants to know of it. */
export type ExplainedFinding = UnsealFinding & { readonly blocks: boolean; readonly advice: string };

/** What stands between one credential and its unseal. */
export interface CredentialCheck {
  readonly name: string;
  readonly generation: number;
  readonly findings: readonly ExplainedFinding[];
}

export function explained(findings: readonly UnsealFinding[]): readonly ExplainedFinding[] {
  return findings.map((found) => ({ ...found, blocks: blocks(found), advice: adviceFor(found.code) ?? "" }));
}

export interface CredentialQuestion {
  readonly anchors: Anchors;
  readonly releases: readonly Release[];
  readonly knownEkName: string | null;
  readonly now: Date;
}

/** Would it unseal now; where nothing else is in the way, its blob is looked at too. Nothing is unsealed, and no try is counted. */
export async function checkCredential(
  tss: Tss,
  { sealed, imported }: Pick<Credential, "sealed" | "imported">,
  { anchors, releases, knownEkName, now }: CredentialQuestion,
): Promise<CredentialCheck> {
  const state = await readTpmState(tss, sealed);
  const findings = [...diagnoseUnseal({ state, rootKeyPem: anchors.releaseRoot, sealed, releases, now, knownEkName })];
  if (!findings.some(blocks)) {
    const blob = await diagnoseBlob(tss, sealed, imported);
    if (blob.kind === "damaged") findings.push(blob.finding);
  }
  return { name: sealed.name, generation: sealed.generation, findings: explained(findings) };
}

/**
 * As lines of a doctor. What is in the agent PCR is left out: before a launch nothing is, and after one the cap is, as it should be; who else
 * has been there `agent-pcr` says.
 */
export function sealedFindings(checks: readonly Omit<CredentialCheck, "generation">[]): readonly Finding[] {
  if (checks.length === 0) return [warn("sealed", { expected: "a sealed credential", got: "none" })];
  return checks.flatMap(({ name, findings }) => {
    const found = findings.filter(({ item }) => !item.startsWith(`PCR ${AGENT_PCR} `));
    if (found.length === 0) return [ok("sealed", `${name} would unseal in a launch that measures as released`)];
    return found.map(({ code, item, expected, got, advice, blocks: isBlocking }) =>
      (isBlocking ? fail : warn)("sealed", {
        expected: `${name}: ${item}: ${expected}`,
        got: `${code}: ${got}`,
        fix: advice || undefined,
      }),
    );
  });
}
