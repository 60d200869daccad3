import { writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { type AppraisalPolicyDocument, encodeAppraisalPolicy, encodeEndorsementAnchors } from "../../attest/index.ts";
import { encodeVerifierConfig, initVerifier } from "../../attest/service/index.ts";
import { createSigningKeyFile } from "../../seal/index.ts";
import type { TpmState } from "../swtpm.ts";
import type { Machine } from "./machine.ts";
import { DEMO_APPRAISAL, softwareTpmAnchor } from "./verifier.ts";

export interface VerifierFolder {
  readonly folder: string;
  /** Where the service will listen: loopback, a port that was free. */
  readonly url: string;
  /** PEM of the CA between the TPM's EK and its anchor. */
  readonly issuer: string;
}

/** A configured verifier service for this machine: its release and the CA of its software TPM, which the policy accepts by name. */
export async function layOutVerifier(
  folder: string,
  tpm: Pick<TpmState, "caRoot" | "caIssuer">,
  machine: Pick<Machine, "anchors" | "release">,
  policy: AppraisalPolicyDocument = DEMO_APPRAISAL.document,
): Promise<VerifierFolder> {
  const at = (name: string) => join(folder, name);
  const given = { anchors: `${folder}-anchors.json`, endorsement: `${folder}-endorsement.json` };
  await writeFile(given.anchors, machine.anchors);
  await writeFile(given.endorsement, encodeEndorsementAnchors([await softwareTpmAnchor(tpm)]));
  const { config } = await initVerifier({
    ...{ folder, createKey: createSigningKeyFile },
    ...{ releaseAnchors: given.anchors, endorsementAnchors: given.endorsement },
  });
  const port = await freePort();
  await writeFile(at("verifier.json"), encodeVerifierConfig({ ...config, listen: { host: "127.0.0.1", port } }));
  await writeFile(at(config.policy), encodeAppraisalPolicy(policy));
  await writeFile(join(at(config.references), "release.json"), machine.release);
  return { folder, url: `http://127.0.0.1:${port}`, issuer: tpm.caIssuer };
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject).listen(0, "127.0.0.1", () => {
      const address = server.address();
      server.close(() => resolve(address !== null && typeof address === "object" ? address.port : 0));
    });
  });
}
