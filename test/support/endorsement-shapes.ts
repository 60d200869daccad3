import { generateKeyPairSync, type KeyObject } from "node:crypto";
import { verifyEndorsement } from "../../attest/endorsement.ts";
import type { TrustAnchor } from "../../attest/endorsement-chain.ts";
import {
  attribute,
  authority,
  commonName,
  ekExtensions,
  element,
  keyUsage,
  signingWith,
  tpmAttributes,
  type WrittenCertificate,
  type WrittenExtension,
  writeCertificate,
} from "./certificate-writer.ts";
import { toPem } from "./vendor-chains.ts";

export const at = new Date("2030-01-01T00:00:00Z");
export const ec = (namedCurve: string) => generateKeyPairSync("ec", { namedCurve });
export const rsaPair = (modulusLength: number) => generateKeyPairSync("rsa", { modulusLength });
export type Pair = { readonly publicKey: KeyObject; readonly privateKey: KeyObject };

export const root = ec("P-256");
export const ek = ec("P-256");
export const rsaEk = rsaPair(2048);
export const rootExtensions = [authority(), keyUsage(0x04)];
export const rootCertificate = (pair: Pair, changes: Partial<WrittenCertificate> = {}) =>
  writeCertificate({
    ...{
      subject: commonName("root"),
      key: pair.publicKey,
      extensions: rootExtensions,
      signing: signingWith(pair.privateKey),
    },
    ...changes,
  });

export const anchorFor = (der: Uint8Array, changes: Partial<TrustAnchor> = {}): TrustAnchor => ({
  ...{
    name: "root",
    pem: toPem(der),
    assurance: "hardware-ek",
    requireEkPurpose: true,
    manufacturers: ["id:49465800"],
  },
  ...changes,
});
export const pinned = anchorFor(rootCertificate(root));

/** An EK certificate under the root, with changes. */
export const leaf = (changes: Partial<WrittenCertificate> = {}) =>
  writeCertificate({ key: ek.publicKey, signing: signingWith(root.privateKey), ...changes });
export const verify = (chain: readonly Uint8Array[], anchors: readonly TrustAnchor[] = [pinned]) =>
  verifyEndorsement(chain, anchors, at);

/** The usual extensions, those of the same kind replaced. */
export const having = (...changed: readonly WrittenExtension[]): readonly WrittenExtension[] => [
  ...ekExtensions.filter(({ id }) => !changed.some((other) => other.id === id)),
  ...changed,
];
export const without = (...ids: readonly string[]) => ekExtensions.filter(({ id }) => !ids.includes(id));
export const [manufacturer = attribute("2.5.4.3", ""), model = manufacturer, version = manufacturer] = tpmAttributes();
export const other = {
  dns: element(0x82, new TextEncoder().encode("tpm.example.org")),
  email: element(0x81, new TextEncoder().encode("a@example.org")),
};
