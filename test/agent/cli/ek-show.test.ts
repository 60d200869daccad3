import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { encodeEndorsementAnchors, type TrustAnchor } from "../../../attest/index.ts";
import { concatBytes } from "../../../policy/index.ts";
import { cli } from "../../support/cli.ts";
import { expectComplaint } from "../../support/cli-fixture.ts";
import { readVendorChain, toPem } from "../../support/vendor-chains.ts";

const directory = mkdtempSync(join(tmpdir(), "ek-show-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));
const at = (name: string) => join(directory, name);
const time = ["--at", "2027-01-01T00:00:00Z"];

/** The files of a vendor's chain, and its root as the only trust anchor. */
function lay(name: string, changes: Partial<TrustAnchor> = {}) {
  const chain = readVendorChain(name);
  for (const [index, der] of chain.entries()) writeFileSync(at(`${name}-${index}.der`), der);
  const anchor: TrustAnchor = {
    ...{
      name: "vendor",
      pem: toPem(chain.at(-1) ?? new Uint8Array()),
      assurance: "hardware-ek",
      requireEkPurpose: true,
    },
    ...{ manufacturers: "any", ...changes },
  };
  writeFileSync(at(`${name}.json`), encodeEndorsementAnchors([anchor]));
  const issuers = chain.slice(1, -1).flatMap((_, index) => ["--issuer", at(`${name}-${index + 1}.der`)]);
  return { certificate: at(`${name}-0.der`), issuers, set: ["--ca-set", at(`${name}.json`)] };
}

describe("ek show", () => {
  test("I9: it says what a certificate says, and the class it gets", async () => {
    const { certificate, issuers, set } = lay("infineon-rsa");
    const { code, out, err } = await cli(["ek", "show", certificate, ...issuers, ...set, ...time]);
    expect({ code, err }).toEqual({ code: 0, err: "" });
    expect(out).toMatch(/^TPM +id:49465800 \(IFX\), SLB 9670 TPM2.0, id:073f$/m);
    expect(out).toMatch(/^EK Name +L-1 000b[0-9a-f]{64}, or H-1 000b[0-9a-f]{64}$/m);
    expect(out).toMatch(/^sealing +possible$/m);
    expect(out).toMatch(/^verdict +hardware-ek, by vendor; taken for L-1 unless the machine says otherwise$/m);
  });

  test("I9: it takes several issuers in their order", async () => {
    const { certificate, issuers, set } = lay("stm-rsa");
    expect(issuers.length).toBe(4);
    expect((await cli(["ek", "show", certificate, ...issuers, ...set, ...time])).code).toBe(0);
    const { code, out } = await cli(["ek", "show", certificate, ...issuers.slice(0, 2), ...set, ...time]);
    expect(code).toBe(1);
    expect(out).toMatch(/refused: ek certificate chain: .* got another issuer: .*STM TPM EK Root CA/);
  });

  test("I9: certificates may come from other systems and several in a file, in whatever order", async () => {
    const { set } = lay("stm-rsa");
    const [ek = new Uint8Array(), first = ek, ...rest] = readVendorChain("stm-rsa").slice(0, -1);
    writeFileSync(at("crlf.pem"), `Certificate:\r\n    Data:\r\n${toPem(ek).replaceAll("\n", "\r\n")}`);
    writeFileSync(at("row.der"), concatBytes(...rest.toReversed(), new Uint8Array(30).fill(0xff)));
    writeFileSync(at("first.pem"), toPem(first));
    const issuers = ["--issuer", at("row.der"), "--issuer", at("first.pem")];
    expect(await cli(["ek", "show", at("crlf.pem"), ...issuers, ...set, ...time])).toMatchObject({ code: 0, err: "" });
    writeFileSync(at("bundle.pem"), [...rest, first].map(toPem).join("\r\n# next\r\n"));
    expect(await cli(["ek", "show", at("crlf.pem"), "--issuer", at("bundle.pem"), ...set, ...time])).toMatchObject({
      code: 0,
      err: "",
    });
  });

  test("I10: an EK's file with two certificates is refused, and so is one of issuers with nine", async () => {
    const { certificate, set } = lay("stm-rsa");
    const [ek = new Uint8Array(), issuer = ek] = readVendorChain("stm-rsa");
    for (const [name, bytes] of [
      ["two.pem", toPem(ek) + toPem(issuer)],
      ["two.der", concatBytes(ek, issuer)],
    ] as const) {
      writeFileSync(at(name), bytes);
      const complaint = await cli(["ek", "show", at(name)]);
      expectComplaint(complaint, 3, name);
      expect(complaint.err).toMatch(/certificates: expected at most 1/);
    }
    writeFileSync(at("nine.pem"), toPem(issuer).repeat(9));
    const complaint = await cli(["ek", "show", certificate, "--issuer", at("nine.pem"), ...set, ...time]);
    expectComplaint(complaint, 3, "nine.pem");
    expect(complaint.err).toMatch(/certificates: expected at most 8, got 9/);
  });

  test.each<[string, string, Partial<TrustAnchor>, readonly string[], RegExp]>([
    [
      "a manufacturer that is not pinned",
      "nuvoton-rsa",
      { manufacturers: ["id:49465800"] },
      time,
      /tpmManufacturer: expected id:49465800, got id:4E544300/,
    ],
    ["a purpose that is missing", "google-pca-rsa", {}, time, /extKeyUsage: expected 2.23.133.8.1, got none/],
    [
      "a certificate that has ended",
      "infineon-ecc",
      {},
      ["--at", "2050-01-01T00:00:00Z"],
      /dates: expected .*2033.* got 2050/,
    ],
  ])("I9: it says why not, with expected and got: %s", async (_, name, changes, when, message) => {
    const { certificate, issuers, set } = lay(name, changes);
    const { code, out, err } = await cli(["ek", "show", certificate, ...issuers, ...set, ...when]);
    expect({ code, err }).toEqual({ code: 1, err: "" });
    expect(out).toMatch(message);
    const json = await cli(["ek", "show", certificate, ...issuers, ...set, ...when, "--json"]);
    expect(JSON.parse(json.out)).toMatchObject({
      verdict: { kind: "refused", expected: expect.any(String), got: expect.any(String) },
    });
  });

  test("I9: a P-256 key is shown as one that nothing is sealed to", async () => {
    const { certificate } = lay("infineon-ecc");
    const { code, out } = await cli(["ek", "show", certificate]);
    expect(code).toBe(0);
    expect(out).toMatch(/^sealing +not possible: .* got ECC P-256$/m);
    expect(out).toMatch(/^verdict +none without --ca-set$/m);
  });

  test("I10: an authority's certificate is shown as one, and noise is refused", async () => {
    const { set } = lay("infineon-rsa");
    const shown = await cli(["ek", "show", at("infineon-rsa-1.der"), ...set, ...time]);
    expect(shown.code).toBe(1);
    expect(shown.out).toMatch(/^authority +yes/m);
    expect(shown.out).toMatch(/refused: ek certificate basicConstraints: expected an end entity/);
    writeFileSync(at("noise"), new Uint8Array(99).fill(7));
    expectComplaint(await cli(["ek", "show", at("noise")]), 3, "noise");
  });
});
