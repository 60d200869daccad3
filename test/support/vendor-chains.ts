import { readFileSync } from "node:fs";
import { join } from "node:path";

const directory = join(import.meta.dirname, "..", "vectors", "ek-certificates");

/** Certificates that real TPMs and their makers have (vectors/README.md): the EK's first, its root last. */
export function readVendorChain(name: string): readonly Uint8Array[] {
  const pem = readFileSync(join(directory, `${name}.pem`), "utf8");
  return [...pem.matchAll(/-----BEGIN CERTIFICATE-----([^-]+)-----END/g)].map(([, body = ""]) =>
    Uint8Array.fromBase64(body.replace(/\s/g, "")),
  );
}

export function toPem(der: Uint8Array): string {
  const lines = der.toBase64().match(/.{1,64}/g) ?? [];
  return `-----BEGIN CERTIFICATE-----\n${lines.join("\n")}\n-----END CERTIFICATE-----\n`;
}
