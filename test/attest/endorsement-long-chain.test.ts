import { X509Certificate } from "node:crypto";
import fc from "fast-check";
import { afterEach, describe, expect, it, vi } from "vitest";
import { maxChain, orderChain } from "../../attest/endorsement-chain.ts";
import { AttestError } from "../../attest/errors.ts";
import { concatBytes } from "../../policy/index.ts";
import {
  authority,
  boolean,
  commonName,
  element,
  keyUsage,
  sequence,
  signingWith,
  writeCertificate,
} from "../support/certificate-writer.ts";
import { ec, having, leaf, type Pair, root, rootCertificate, verify } from "../support/endorsement-shapes.ts";

afterEach(() => vi.restoreAllMocks());

/** An EK and the authorities above it, the lowest first and the root not among them; `names` from the root down. */
function chainOf(names: readonly string[]): readonly Uint8Array[] {
  const authorities: Uint8Array[] = [];
  let above: Pair = root;
  let issuer = "root";
  for (const name of names) {
    const pair = ec("P-384");
    const certificate = writeCertificate({
      ...{ subject: commonName(name), issuer: commonName(issuer), key: pair.publicKey },
      ...{ extensions: [authority(), keyUsage(0xae)], signing: signingWith(above.privateKey) },
    });
    authorities.unshift(certificate);
    [above, issuer] = [pair, name];
  }
  return [
    leaf({ issuer: commonName(issuer), signing: signingWith(above.privateKey), extensions: ekShape }),
    ...authorities,
  ];
}

/** As these TPMs write an EK's: a flag that says what is so without it, and a description. */
const ekShape = having(
  keyUsage(0x08),
  { id: "2.5.29.19", critical: true, value: sequence(boolean(0x00)) },
  { id: "2.5.29.9", critical: element(0x01, Uint8Array.of(0)), value: sequence() },
);
const firmware = chainOf(["CSME intermediate", "issuing", "ROM", "kernel", "PTT"]);
const [ek = new Uint8Array(), ...issuers] = firmware;
const top = rootCertificate(root);

describe("a chain as firmware TPMs have it, of an EK, three authorities in the processor, two of its maker and the root", () => {
  it("I9: it verifies up to the root, with it and without", () => {
    expect([firmware.length, verify(firmware).anchor]).toEqual([6, "root"]);
    expect(verify([...firmware, top]).ekName).toEqual(verify(firmware).ekName);
  });

  it("I9: it does not verify with any one of its authorities missing, or another in its place", () => {
    const others = chainOf(["CSME intermediate", "issuing", "ROM", "kernel", "PTT"]);
    for (const index of issuers.keys()) {
      expect(() => verify(firmware.toSpliced(index + 1, 1))).toThrow(/pinned authority/);
      expect(() => verify(firmware.with(index + 1, others[index + 1] ?? ek))).toThrow(/pinned authority/);
    }
  });

  it("I10: eight certificates are looked at, and cost one signature each; nine are refused unread", () => {
    const names = Array.from({ length: maxChain - 1 }, (_, index) => `authority ${index}`);
    const longest = chainOf(names);
    const verified = vi.spyOn(X509Certificate.prototype, "verify");
    expect([longest.length, verify(longest).anchor]).toEqual([8, "root"]);
    expect(verified.mock.calls.length).toBe(8);
    expect(() => verify([...longest, Uint8Array.of(1)])).toThrow(/1 to 8 certificates, got 9/);
  });
});

describe("issuers in whatever order somebody has them", () => {
  const stranger = rootCertificate(ec("P-256"), { subject: commonName("stranger"), issuer: commonName("nobody") });

  it("I9: they are put in the order of the chain, and those that are not in it left out", () => {
    const all = [...issuers, top, stranger];
    fc.assert(
      fc.property(fc.shuffledSubarray(all, { minLength: all.length }), (shuffled) => {
        expect(orderChain(ek, shuffled)).toEqual([...firmware, top]);
      }),
    );
    expect(verify(orderChain(ek, issuers.toReversed())).anchor).toBe("root");
    expect(orderChain(ek, [])).toEqual([ek]);
  });

  it("I9: a chain in its order stays as it is", () => {
    fc.assert(
      fc.property(fc.nat(issuers.length), (length) => {
        expect(orderChain(ek, issuers.slice(0, length))).toEqual(firmware.slice(0, length + 1));
      }),
    );
  });

  it("I9: of one with a gap it is told which authority is missing", () => {
    const gap = issuers.filter((_, index) => index !== 2);
    expect(() => verify(orderChain(ek, gap))).toThrow(/another issuer: CN=ROM/);
  });

  it("I9: an order is no proof: an authority of the right name with another key is refused by its signature", () => {
    const [, ...others] = chainOf(["CSME intermediate", "issuing", "ROM", "kernel", "PTT"]);
    const mixed = orderChain(ek, [...others.slice(0, 1), ...issuers.slice(1)]);
    expect(mixed.length).toBe(firmware.length);
    expect(() => verify(mixed)).toThrow(/a bad signature/);
  });

  it("I10: authorities that issued each other, and one twice, end in a chain of each once", () => {
    const [one, two] = [ec("P-256"), ec("P-256")];
    const cross = (subject: string, pair: Pair, by: string, signer: Pair) =>
      rootCertificate(pair, {
        ...{ subject: commonName(subject), issuer: commonName(by), signing: signingWith(signer.privateKey) },
      });
    const [a, b] = [cross("a", one, "b", two), cross("b", two, "a", one)];
    const below = leaf({ issuer: commonName("a"), signing: signingWith(one.privateKey) });
    expect(orderChain(below, [b, a])).toEqual([below, a, b]);
    expect(orderChain(below, [top, top, b, a])).toEqual([below, a, b]);
    expect(() => orderChain(below, [a, concatBytes(a, b)])).toThrow(AttestError);
  });
});
