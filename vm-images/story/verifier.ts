import { randomBytes } from "node:crypto";
import { readFile } from "node:fs/promises";
import {
  type AttestationResult,
  appraise,
  type Claims,
  defaultAppraisalPolicy,
  defaultQuotePcrs,
  type Endorsement,
  type Enrolment,
  makeAppraisalPolicy,
  parseEvidence,
  type TrustAnchor,
  verifyEndorsement,
  verifyEvidence,
} from "../../attest/index.ts";
import { parseAnchors, verifyRelease } from "../../policy/index.ts";
import type { ControlClient } from "../control-client.ts";
import type { TpmState } from "../swtpm.ts";

export { enrol } from "../enrol.ts";

/** Accepts what `npm start` makes, by name: a demo image on a software TPM. The default policy refuses both. */
export const DEMO_APPRAISAL = makeAppraisalPolicy({
  ...defaultAppraisalPolicy.document,
  name: "demo",
  variants: ["demo", "dev", "release"],
  minAssurance: "software-tpm",
  firmware: "waived",
});

/** This host's own software TPM CA: nothing but `software-tpm` can come of it. */
export async function softwareTpmAnchor({ caRoot }: Pick<TpmState, "caRoot">): Promise<TrustAnchor> {
  return {
    name: "software TPM CA of this host",
    pem: await readFile(caRoot, "utf8"),
    assurance: "software-tpm",
    requireEkPurpose: true,
    manufacturers: ["id:00001014"],
  };
}

export async function endorse(tpm: Pick<TpmState, "ekCertificates" | "caIssuer" | "caRoot">): Promise<Endorsement> {
  const chain = [tpm.ekCertificates.p384, derOf(await readFile(tpm.caIssuer, "utf8"))];
  return verifyEndorsement(chain, [await softwareTpmAnchor(tpm)], new Date());
}

export interface Verdict {
  readonly result: AttestationResult;
  readonly claims: Claims;
  readonly report: Uint8Array;
  readonly nonce: Uint8Array;
}

/** Challenge the machine with a fresh nonce, verify what comes back, judge it against the signed release. */
export async function attest(
  control: ControlClient,
  enrolment: Enrolment,
  documents: { readonly release: Uint8Array; readonly anchors: Uint8Array },
  bank: "sha256" | "sha384" = "sha256",
): Promise<Verdict> {
  const nonce = new Uint8Array(randomBytes(32));
  const challenged = new Date();
  const challenge = { nonce, bank, pcrs: defaultQuotePcrs };
  const report = await control.challenge(challenge);
  const verified = await verifyEvidence(parseEvidence(report), challenge, enrolment, null);
  const release = await verifyRelease(documents.release, parseAnchors(documents.anchors).releaseRoot);
  const result = appraise(verified, [release], DEMO_APPRAISAL, { now: new Date(), challenged });
  return { result, claims: verified.claims, report, nonce };
}

function derOf(pem: string): Uint8Array {
  const base64 = /-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----/.exec(pem)?.[1] ?? "";
  return new Uint8Array(Buffer.from(base64, "base64"));
}
