import { encodeEndorsementAnchors, type TrustAnchor } from "../../../attest/index.ts";
import { concatBytes, utf8 } from "../../../policy/index.ts";
import { attribute, directoryName, element, rdn, sequence, tpmAttributes } from "../../support/certificate-writer.ts";
import { encodeDer } from "../../support/der-writer.ts";
import { readVendorChain, toPem } from "../../support/vendor-chains.ts";
import type { Seeds } from "./made.ts";

/** Real makers' certificates: openssl would draw new keys each time. */
export function endorsementSeeds(): Record<string, Seeds> {
  const chains = ["infineon-ecc", "nuvoton-rsa", "stm-ecc", "google-pca-rsa"] as const;
  const [, , root = new Uint8Array()] = readVendorChain("infineon-ecc");
  const anchor: TrustAnchor = {
    ...{ name: "Infineon", pem: toPem(root), assurance: "hardware-ek", requireEkPurpose: true },
    manufacturers: ["id:49465800"],
  };
  const [, provider = new Uint8Array()] = readVendorChain("google-pca-rsa");
  const second: TrustAnchor = {
    ...anchor,
    name: "provider (1)",
    pem: toPem(provider),
    assurance: "provider-ek",
    manufacturers: "any",
  };
  const [one, ...others] = tpmAttributes();
  const dns = element(0x82, new TextEncoder().encode("tpm.example.org"));
  return {
    "endorsement-chain": {
      ...Object.fromEntries(chains.map((name) => [name, concatBytes(...readVendorChain(name).slice(0, 3))])),
      pem: utf8(`subject=\r\n${readVendorChain("infineon-ecc").map(toPem).join("issuer:\n")}`),
    },
    "endorsement-anchors": { one: encodeEndorsementAnchors([anchor]), two: encodeEndorsementAnchors([anchor, second]) },
    "tpm-subject": {
      single: encodeDer([sequence(directoryName(...tpmAttributes().map((each) => rdn(each))))]),
      joined: encodeDer([sequence(dns, directoryName(rdn(...tpmAttributes())))]),
      printable: encodeDer([
        sequence(directoryName(rdn(one ?? dns), rdn(attribute("2.5.4.10", "Maker", 0x13), ...others))),
      ]),
    },
  };
}
