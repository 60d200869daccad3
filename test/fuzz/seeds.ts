// node test/fuzz/seeds.ts: writes the corpora anew, with the project's own encoders. The same source writes the same bytes.
import { mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { declareOaep, EXTENSIONS, makeCertificate } from "../support/certificates.ts";
import { agentSeeds } from "./seeds/agent.ts";
import { approvalSeeds } from "./seeds/approvals.ts";
import { endorsementSeeds } from "./seeds/endorsement.ts";
import { imageSeeds, tpmSeeds } from "./seeds/evidence.ts";
import { hostSeeds } from "./seeds/host.ts";
import type { Seeds } from "./seeds/made.ts";
import { nativeSeeds } from "./seeds/native.ts";
import { pageSeeds } from "./seeds/page.ts";
import { policySeeds } from "./seeds/policy.ts";
import { resultSeeds } from "./seeds/results.ts";
import { releaseSeeds } from "./seeds/sealing.ts";
import { shimSeeds } from "./seeds/shim.ts";
import { verifierSeeds } from "./seeds/verifier.ts";

const CORPUS = join(import.meta.dirname, "corpus");
/** The corpus that `allSeeds` has not. */
export const MADE_ONCE = "certificate";

/** openssl draws new keys each time, so these are made once and kept: delete the folder to have others. */
function makeCertificates(directory: string): void {
  mkdirSync(directory, { recursive: true });
  if (readdirSync(directory).length > 0) return;
  const names =
    "subjectAltName=critical,dirName:tpm\n[tpm]\n1.2.23.133.2.1=id:00001014\n2.2.23.133.2.2=swtpm\n3.2.23.133.2.3=id:20191023";
  const authority = makeCertificate({ subject: "/CN=authority", extensions: EXTENSIONS.lastAuthority, issuer: null });
  const ek = makeCertificate({ subject: "/CN=ek", extensions: `${EXTENSIONS.ek}\n${names}`, issuer: authority });
  writeFileSync(join(directory, "authority"), authority.der);
  writeFileSync(join(directory, "ek"), ek.der);
  writeFileSync(join(directory, "oaep"), declareOaep(ek, authority));
}

/** Every corpus but the certificates', by its target. */
export function allSeeds(): Readonly<Record<string, Seeds>> {
  return {
    ...releaseSeeds(),
    ...policySeeds(),
    ...tpmSeeds(),
    ...resultSeeds(),
    ...imageSeeds(),
    ...hostSeeds(),
    ...endorsementSeeds(),
    ...agentSeeds(),
    ...approvalSeeds(),
    ...nativeSeeds(),
    ...shimSeeds(),
    ...verifierSeeds(),
    ...pageSeeds(),
  };
}

function writeCorpora(): void {
  for (const [target, seeds] of Object.entries(allSeeds())) {
    const directory = join(CORPUS, target);
    rmSync(directory, { recursive: true, force: true });
    mkdirSync(directory, { recursive: true });
    for (const [name, bytes] of Object.entries(seeds)) writeFileSync(join(directory, name), bytes);
  }
  makeCertificates(join(CORPUS, MADE_ONCE));
}

if (import.meta.main) writeCorpora();
