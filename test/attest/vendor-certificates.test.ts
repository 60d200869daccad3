import { describe, expect, it } from "vitest";
import { parseCertificateFields } from "../../attest/ek-certificate.ts";
import { verifyEndorsement } from "../../attest/endorsement.ts";
import type { TrustAnchor } from "../../attest/endorsement-chain.ts";
import { concatBytes, fromBase64, toHex } from "../../policy/index.ts";
import { readVendorChain, toPem } from "../support/vendor-chains.ts";

const at = new Date("2027-01-01T00:00:00Z");

function anchorOf(der: Uint8Array | undefined, changes: Partial<TrustAnchor> = {}): TrustAnchor {
  return {
    name: "vendor",
    pem: toPem(der ?? new Uint8Array()),
    assurance: "hardware-ek",
    requireEkPurpose: true,
    manufacturers: "any",
    ...changes,
  };
}

const vendors = [
  ["infineon-rsa", "L-1", "id:49465800", "SLB 9670 TPM2.0"],
  ["infineon-ecc", "L-2", "id:49465800", "SLB 9670 TPM2.0"],
  ["nuvoton-rsa", "L-1", "id:4E544300", "NPCT75x"],
  ["stm-rsa", "L-1", "id:53544D20", "ST33HTPHAHB4"],
  ["stm-ecc", "L-2", "id:53544D20", "ST33HTPHAHB4"],
  ["google-uca-rsa", "L-1", "id:474F4F47", "vTPM"],
  ["google-uca-ecc", "L-2", "id:474F4F47", "vTPM"],
] as const;

describe.each(vendors)("the EK certificate %s of a real TPM", (name, profile, manufacturer, model) => {
  const chain = readVendorChain(name);

  it("I9: it verifies up to its maker's root, and to each authority below that alone", () => {
    for (const [index, authority] of chain.entries()) {
      if (index === 0) continue;
      const anchor = anchorOf(authority, { manufacturers: [manufacturer.toLowerCase()] });
      const endorsement = verifyEndorsement(chain.slice(0, index), [anchor], at);
      expect(endorsement).toMatchObject({ assurance: "hardware-ek", manufacturer, profile });
      expect(verifyEndorsement(chain, [anchor], at).ekName).toEqual(endorsement.ekName);
    }
    expect(parseCertificateFields(chain[0] ?? new Uint8Array()).tpm.model).toBe(model);
  });

  it("I9: it does not verify under another maker's root, or with a gap in the chain", () => {
    const others = vendors.filter(([other]) => other.split("-")[0] !== name.split("-")[0]);
    const strangers = others.map(([other]) => anchorOf(readVendorChain(other).at(-1)));
    expect(() => verifyEndorsement(chain, strangers, at)).toThrow(/pinned authority/);
    if (chain.length > 2)
      expect(() => verifyEndorsement(chain.slice(0, 1), [anchorOf(chain.at(-1))], at)).toThrow(/another issuer/);
  });

  it("I9: another manufacturer than the pinned ones is refused", () => {
    const anchor = anchorOf(chain[1], { manufacturers: ["id:494E5443"] });
    expect(() => verifyEndorsement(chain, [anchor], at)).toThrow(/tpmManufacturer: expected id:494E5443, got id:/);
  });
});

describe("what real certificates are like", () => {
  it("I9: the public areas that real TPMs of Infineon have follow from their certificates alone", () => {
    // TPM2B_PUBLIC as read from those TPMs.
    const published = {
      "infineon-rsa":
        "AToAAQALAAMAsgAgg3GXZ0SEs/gakMyNRqXXJP1S124GUgtk8qHaGzMUaaoABgCAAEMAEAgAAAAAAAEAtoiuJckJJQp29ZENh1Fu11MryLt4InAdXw2FDwKivw0qhWauc50OEapeWsrIlO54D0PY/jJCVZkj60P08JUIcJCIaarHEdBeDMLPHrP7nsdNQ08OLXorpkU82zdSSEBDF4Ys7LfpcPfnOl+Bp229yXEkLwv5SAp9dUAzf+gyPhwNdrhxtUqGV8hBcP06Fw2O8RI9ZUXDR2PtDoczSMSR7Mx7Dmwncj4sRPVwgiFSVe9fx9Yu7YwfH37osgGOQ3xK4wuMoFBmOH6sRsegW4bshv2k25ys8DJyJ3gQEFAHrmP2KtnwL5l1RSQozmGwOFx6eb/QB1+oAZewW2wRrwO4MQ==",
      "infineon-ecc":
        "AHoAIwALAAMAsgAgg3GXZ0SEs/gakMyNRqXXJP1S124GUgtk8qHaGzMUaaoABgCAAEMAEAADABAAINK9AtBnW5bwNG2ZIWDrM8w/h03Ht2lp3MUosV05DeBHACBZkRl+YqwcwGqmoOwgqQSByVBrADgEVHlhS9J2tJQNMQ==",
    } as const;
    for (const [name, area] of Object.entries(published)) {
      const chain = readVendorChain(name);
      const { ekPublicArea } = verifyEndorsement(chain, [anchorOf(chain.at(-1))], at);
      expect(toHex(ekPublicArea), name).toBe(toHex(fromBase64(area, name).slice(2)));
    }
  });

  it("I9: padding behind a certificate in NV is no part of it; other bytes are refused", () => {
    const chain = readVendorChain("stm-rsa");
    const [ek = new Uint8Array(), ...issuers] = chain;
    const expected = verifyEndorsement(chain, [anchorOf(chain.at(-1))], at);
    for (const fill of [0x00, 0xff]) {
      const padded = concatBytes(ek, new Uint8Array(600).fill(fill));
      expect(verifyEndorsement([padded, ...issuers], [anchorOf(chain.at(-1))], at)).toEqual(expected);
    }
    const dirty = concatBytes(ek, Uint8Array.of(0, 0, 7));
    expect(() => verifyEndorsement([dirty, ...issuers], [anchorOf(chain.at(-1))], at)).toThrow(/padding/);
    const two = concatBytes(ek, issuers[0] ?? new Uint8Array());
    expect(() => verifyEndorsement([two, ...issuers], [anchorOf(chain.at(-1))], at)).toThrow(/at most 1/);
  });

  it("I9: a signing certificate that carries the EK purpose, as one provider's do, is no EK's", () => {
    const chain = readVendorChain("google-uca-ecc-sign");
    expect(() => verifyEndorsement(chain, [anchorOf(chain.at(-1))], at)).toThrow(/keyUsage/);
  });

  it("I9: a provider's certificate without the EK purpose needs an anchor that says so", () => {
    const chain = readVendorChain("google-pca-rsa");
    const changes = { assurance: "provider-ek", requireEkPurpose: false } as const;
    expect(verifyEndorsement(chain, [anchorOf(chain.at(-1), changes)], at)).toMatchObject({
      assurance: "provider-ek",
      manufacturer: null,
    });
    expect(() => verifyEndorsement(chain, [anchorOf(chain.at(-1))], at)).toThrow(/extKeyUsage/);
    const strict = anchorOf(chain.at(-1), { ...changes, manufacturers: ["id:474F4F47"] });
    expect(() => verifyEndorsement(chain, [strict], at)).toThrow(/tpmManufacturer: expected id:474F4F47, got none/);
  });
});
