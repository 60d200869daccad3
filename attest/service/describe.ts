import type { SigningKey } from "../../policy/index.ts";
import { earKeyId } from "../index.ts";
import type { VerifierConfig } from "./config.ts";
import type { TrustDocuments } from "./documents.ts";

/** What a configuration and its documents add up to. */
export interface VerifierFacts {
  readonly listen: string;
  readonly tls: "none" | "server" | "server and clients";
  readonly roles: readonly { readonly name: string; readonly role: string; readonly by: string }[];
  readonly key: string;
  readonly policy: { readonly name: string; readonly sha256: string };
  readonly releaseRoot: string | null;
  readonly releases: readonly {
    readonly name: string;
    readonly variant: string;
    readonly notAfter: string;
    readonly accepted: string;
  }[];
  readonly endorsementAnchors: readonly { readonly name: string; readonly assurance: string }[];
  /** What will refuse every machine, in words. */
  readonly warnings: readonly string[];
}

/** What the service would accept, for `ironclaw verifier check`. Pure. */
export function describeVerifier(
  config: VerifierConfig,
  documents: TrustDocuments,
  key: Pick<SigningKey, "spkiPem">,
  now: Date,
): VerifierFacts {
  const { policy, releaseRoot, endorsementAnchors } = documents;
  const releases = documents.releases.map(({ name, image, notBefore, notAfter }) => ({
    ...{ name, variant: image.variant, notAfter },
    accepted: acceptance(documents, { name, variant: image.variant, notBefore, notAfter }, now),
  }));
  return {
    listen: "unix" in config.listen ? `unix:${config.listen.unix}` : `${config.listen.host} port ${config.listen.port}`,
    tls: config.tls === null ? "none" : config.tls.clientCa === null ? "server" : "server and clients",
    roles: config.roles.map((entry) => ({
      name: entry.name,
      role: entry.role,
      by: "tokenSha256" in entry ? "token" : "certificate",
    })),
    key: earKeyId(key.spkiPem),
    policy: { name: policy.document.name, sha256: policy.sha256 },
    ...{ releaseRoot, releases },
    endorsementAnchors: endorsementAnchors.map(({ name, assurance }) => ({ name, assurance })),
    warnings: [
      ...(releases.some(({ accepted }) => accepted === "yes")
        ? []
        : ["no release is accepted: every machine is contraindicated"]),
      ...(endorsementAnchors.length > 0 ? [] : ["no endorsement anchor: no machine can be enrolled"]),
      ...(config.roles.some(({ role }) => role === "operator")
        ? []
        : ["no operator: nobody can make enrolment tokens"]),
    ],
  };
}

function acceptance(
  { policy }: TrustDocuments,
  release: {
    readonly name: string;
    readonly variant: "demo" | "dev" | "installed" | "release";
    readonly notBefore: string;
    readonly notAfter: string;
  },
  now: Date,
): string {
  const { releases, variants } = policy.document;
  if (releases !== "any" && !releases.includes(release.name)) return "no: the policy does not name it";
  if (!variants.includes(release.variant)) return `no: the policy has no variant ${release.variant}`;
  if (now < new Date(release.notBefore)) return "no: not yet valid";
  return now > new Date(release.notAfter) ? "no: expired" : "yes";
}

export function renderVerifierFacts(facts: VerifierFacts): string {
  const { policy, releaseRoot } = facts;
  return [
    `listens at ${facts.listen}, TLS: ${facts.tls}`,
    `signs results with key ${facts.key}`,
    `judges by policy ${policy.name}, sha256 ${policy.sha256}`,
    `releases under root ${releaseRoot ?? "none"}:`,
    ...facts.releases.map(
      ({ name, variant, notAfter, accepted }) => `  ${name} (${variant}, until ${notAfter}): ${accepted}`,
    ),
    "enrols TPMs under:",
    ...facts.endorsementAnchors.map(({ name, assurance }) => `  ${name}: ${assurance}`),
    "roles:",
    ...facts.roles.map(({ name, role, by }) => `  ${name}: ${role}, by ${by}`),
    ...facts.warnings.map((warning) => `warning: ${warning}`),
  ].join("\n");
}
