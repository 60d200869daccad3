import { createHash, timingSafeEqual } from "node:crypto";
import { fromHex } from "../../policy/index.ts";
import type { CredentialEntry } from "./config.ts";

export const roles = ["none", "viewer", "operator"] as const;
export type Role = (typeof roles)[number];

export interface Principal {
  readonly role: Role;
  /** Name in the configuration; `null` for somebody without a credential. */
  readonly name: string | null;
}

export const anonymous: Principal = { role: "none", name: null };

/** What a connection shows of itself. */
export interface Shown {
  /** The Authorization header. */
  readonly authorization: string | undefined;
  /** A client certificate: whether it is under the configured CA, its DER and common name. */
  readonly certificate: { readonly authorized: boolean; readonly der: Uint8Array; readonly commonName: string } | null;
}

const bearer = /^Bearer ([A-Za-z0-9._~+/-]{16,256}=*)$/i;

/**
 * Whose credential this is. `null`: one was shown and it is nobody's, which is refused even where none is needed. A token counts before a
 * certificate. Tokens are compared by their digests, all of them, in constant time.
 */
export function identify(entries: readonly CredentialEntry[], { authorization, certificate }: Shown): Principal | null {
  if (authorization !== undefined) {
    const [, token] = bearer.exec(authorization) ?? [];
    return token === undefined ? null : byDigest(entries, "tokenSha256", digestOf(token));
  }
  if (certificate === null) return anonymous;
  if (!certificate.authorized) return null;
  const pinned = byDigest(entries, "certificateSha256", digestOf(certificate.der));
  if (pinned !== null) return pinned;
  const named = entries.find((entry) => "commonName" in entry && entry.commonName === certificate.commonName);
  return named === undefined ? null : { role: named.role, name: named.name };
}

export function mayAct(role: Role, needed: Role): boolean {
  return roles.indexOf(role) >= roles.indexOf(needed);
}

function byDigest(
  entries: readonly CredentialEntry[],
  kind: "tokenSha256" | "certificateSha256",
  shown: Uint8Array,
): Principal | null {
  let found: Principal | null = null;
  for (const entry of entries) {
    const digest = kind in entry ? (entry as Readonly<Record<string, string>>)[kind] : undefined;
    if (digest !== undefined && timingSafeEqual(fromHex(digest), shown)) found = { role: entry.role, name: entry.name };
  }
  return found;
}

function digestOf(shown: string | Uint8Array): Uint8Array {
  return new Uint8Array(createHash("sha256").update(shown).digest());
}
