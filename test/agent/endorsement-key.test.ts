import { describe, expect, it } from "vitest";
import { endorsementKeyKind } from "../../agent/report.ts";

describe("the endorsement key that a machine is known by", () => {
  const rsa = { nvIndex: 0x01c00002 };
  const p384 = { nvIndex: 0x01c00016 };
  const p256 = { nvIndex: 0x01c0000a };
  const name = (algorithm: number, size: number) =>
    new Uint8Array(2 + size).fill(7).fill(0, 0, 1).fill(algorithm, 1, 2);

  it.each([
    ["the one that the PIN is sealed to (RSA)", { ekName: name(0x0b, 32) }, [rsa, p384], "rsa2048"],
    ["the one that the PIN is sealed to (P-384)", { ekName: name(0x0c, 48) }, [rsa], "p384"],
    ["P-384 where both have a certificate", undefined, [rsa, p384], "p384"],
    ["RSA where only that has a certificate", undefined, [rsa], "rsa2048"],
    ["P-256 where only that has a certificate", undefined, [p256], "p256"],
    ["RSA, to which credentials can be sealed, where P-256 has a certificate too", undefined, [rsa, p256], "rsa2048"],
    ["that of the high range where only that has a certificate", undefined, [{ nvIndex: 0x01c00014 }], "p256-high"],
    ["P-384 where the certificates are of keys that are not known", undefined, [{ nvIndex: 0x01c00018 }], "p384"],
    ["P-384 where none has a certificate", undefined, [], "p384"],
  ] as const)("I9: it is %s", (_which, sealed, certificates, kind) => {
    expect(endorsementKeyKind(sealed, certificates)).toBe(kind);
  });
});
