import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { predictPcr7 } from "../../attest/index.ts";
import { sha256, sha384, toHex } from "../../policy/index.ts";
import { findFirmware } from "../../vm-images/qemu-args.ts";
import { NON_VOLATILE, type StoredVariable, writeVariables } from "../../vm-images/variable-store.ts";
import { storedVariables } from "../support/variable-store-reader.ts";

const template = () => new Uint8Array(readFileSync(findFirmware({ secureBoot: true }).vars));
const variable = (name: string, data: Uint8Array): StoredVariable => ({
  ...{ vendor: new Uint8Array(16).fill(7), name, data, attributes: NON_VOLATILE.authenticated },
});

describe("the firmware's variable store", () => {
  it("holds what was written, behind each other and aligned, and is blank behind the last", () => {
    const entry = fc.tuple(fc.stringMatching(/^[A-Za-z]{1,12}$/), fc.uint8Array({ minLength: 1, maxLength: 900 }));
    fc.assert(
      fc.property(fc.array(entry, { maxLength: 6 }), (entries) => {
        const store = writeVariables(
          template(),
          entries.map(([name, data]) => variable(name, data)),
        );
        expect(store).toHaveLength(template().length);
        const found = storedVariables(store);
        expect(found.map(({ name, data }) => [name, toHex(data)])).toEqual(
          entries.map(([name, data]) => [name, toHex(data)]),
        );
        expect(found.every(({ attributes }) => attributes === 0x27)).toBe(true);
      }),
      { numRuns: 20 },
    );
  });

  it.each([
    ["that is cut", (bytes: Uint8Array) => bytes.subarray(0, 60)],
    ["that is empty", () => new Uint8Array()],
    ["of another kind", (bytes: Uint8Array) => bytes.fill(0, 0x48, 0x58)],
    ["that is no firmware volume", (bytes: Uint8Array) => bytes.fill(0, 40, 44)],
    ["that was not finished", (bytes: Uint8Array) => bytes.fill(0xff, 0x5c, 0x5e)],
    ["whose size is beyond its end", (bytes: Uint8Array) => bytes.fill(0xff, 0x58, 0x5c)],
    ["in which there is a variable", (bytes: Uint8Array) => writeVariables(bytes, [variable("db", new Uint8Array(8))])],
  ])("I10: a template %s is refused", (_what, change) => {
    expect(() => writeVariables(change(template()), [])).toThrow(
      expect.objectContaining({ code: "ERR_IMAGE_MALFORMED" }),
    );
  });

  it("I10: more than fits is refused", () => {
    expect(() => writeVariables(template(), [variable("db", new Uint8Array(1 << 20))])).toThrow(/free space/);
  });
});

describe("PCR 7", () => {
  it("I12: is the fold of UEFI_VARIABLE_DATA, each variable's absence too, a separator and the authority, in both banks", () => {
    const vendor = Uint8Array.from({ length: 16 }, (_, index) => index);
    // vendor, 2 characters, 1 byte, "db", 0x5a; then the same without contents
    const present = Buffer.concat([vendor, Buffer.from("020000000000000001000000000000006400620" + "05a", "hex")]);
    const absent = Buffer.concat([vendor, Buffer.from("0200000000000000000000000000000064006200", "hex")]);
    for (const [bank, hash, size] of [
      ["sha256", sha256, 32],
      ["sha384", sha384, 48],
    ] as const) {
      let expected = new Uint8Array(size);
      for (const event of [present, absent, new Uint8Array(4), present])
        expected = Uint8Array.from(hash(Buffer.concat([expected, hash(event)])));
      const db = { vendor, name: "db", data: Uint8Array.of(0x5a) };
      const predicted = predictPcr7({ variables: [db, { ...db, data: new Uint8Array() }], authority: db });
      expect(predicted[bank]).toBe(toHex(expected));
    }
  });
});
