import { splitCertificateFile } from "../../../attest/certificate-file.ts";
import { splitCertificates } from "../../../attest/ek-certificate.ts";
import { verifyEndorsement } from "../../../attest/endorsement.ts";
import {
  maxChain,
  orderChain,
  parseCertificate,
  parsePemCertificate,
  type TrustAnchor,
} from "../../../attest/endorsement-chain.ts";
import { concatBytes, IronclawError } from "../../../policy/index.ts";
import { expectSame, expectTrue } from "../property.ts";

const at = new Date("2027-01-01T00:00:00Z");

/** The certificates are their own anchors, so that what follows a good chain is reached without a good signature being found. */
export function run(bytes: Uint8Array): void {
  const chain = splitCertificateFile(bytes, maxChain);
  const row = concatBytes(...chain);
  expectSame(row, concatBytes(...splitCertificates(row, maxChain)), "certificates in a row");
  for (const der of chain) parseCertificate(der);
  const [ek = row, ...issuers] = chain;
  expectTrue(orderChain(ek, issuers.toReversed()).length <= chain.length, "chain: no certificate is there twice");
  const anchors = chain.flatMap(asAnchor);
  const endorsement = verifyEndorsement(chain, anchors, at);
  if (endorsement.ekName.length !== 34 && endorsement.ekName.length !== 50)
    throw new Error("an EK Name of another size");
}

function asAnchor(der: Uint8Array, index: number): readonly TrustAnchor[] {
  const pem = `-----BEGIN CERTIFICATE-----\n${der.toBase64()}\n-----END CERTIFICATE-----\n`;
  try {
    parsePemCertificate(pem);
  } catch (error) {
    if (error instanceof IronclawError) return [];
    throw error;
  }
  return [{ name: `${index}`, pem, assurance: "provider-ek", requireEkPurpose: false, manufacturers: "any" }];
}
