import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type ApprovalText, MAX_APPROVAL_TEXT, parseApprovalText } from "../../../agent/approvals/index.ts";
import { encodeApprovalText } from "../../../agent/approvals/text.ts";
import { PolicyError, toHex, utf8 } from "../../../policy/index.ts";
import { machine } from "../../support/approvals-fixture.ts";

const at = machine();
const textOf = (scope: string) => at.textOf(at.open({ scope }));
const operation = textOf("signing");
const lines = new TextDecoder().decode(operation).split("\n");
const with_ = (index: number, line: string) => utf8(lines.with(index, line).join("\n"));
const parsed = parseApprovalText(operation);

describe("I7: the text of an approval", () => {
  test("is these lines, byte for byte", () => {
    expect(new TextDecoder().decode(operation)).toBe(
      [
        "ironclaw-approval@1",
        "for: operation",
        `machine: 000b${"ef".repeat(32)}`,
        `boot: ${"01".repeat(32)}`,
        `policy: sha256:${"cd".repeat(32)}`,
        "serial: 7",
        "request: 0101010101010101",
        "scope: signing",
        "caller: signer",
        "key: release-ec",
        `key-spki: sha256:${"11".repeat(32)}`,
        "operation: sign",
        "mechanism: CKM_ECDSA",
        "parameters: none",
        `input: sha256:${"ab".repeat(32)}`,
        "expires: 2027-01-15T12:15:00Z",
        "",
      ].join("\n"),
    );
  });

  test("says one request: two that differ in any value have two texts, and each is read back", () => {
    const value = fc.oneof(
      fc.string({ unit: "binary", minLength: 1, maxLength: 40 }),
      fc.constantFrom("a\nkey: b", "a\\x0akey: b", "a\\", "\\x5c", "\u202ea", "\u00e9", "e\u0301", " ", "a ", "\0"),
    );
    const values = fc.record({ scope: value, caller: value, key: value, mechanism: value, parameters: value });
    fc.assert(
      fc.property(values, values, (a, b) => {
        const [first, second] = [a, b].map((change) => encodeApprovalText({ ...parsed, ...change } as ApprovalText));
        expect(parseApprovalText(first ?? utf8(""))).toEqual({ ...parsed, ...a });
        expect(toHex(first ?? utf8("")) === toHex(second ?? utf8(""))).toBe(JSON.stringify(a) === JSON.stringify(b));
        expect(first?.every((byte) => byte === 0x0a || (byte >= 0x20 && byte < 0x7f))).toBe(true);
        expect(new TextDecoder().decode(first).split("\n").length).toBe(lines.length);
      }),
      { numRuns: 100 },
    );
  });

  test.each<[string, Partial<Record<string, string>>]>([
    ["an empty value", { scope: "" }],
    ["half of a character", { parameters: "\ud800" }],
    ["another digest", { input: "md5:00" }],
    ["a local time", { expires: "2027-01-15T12:15:00" }],
    ["more than it has room for", { parameters: "x".repeat(MAX_APPROVAL_TEXT) }],
  ])("is not written with %s", (_, change) => {
    expect(() => encodeApprovalText({ ...parsed, ...change } as ApprovalText)).toThrow(TypeError);
  });
});

describe("I10: bytes that are no text of an approval", () => {
  test.each([
    ["nothing", utf8("")],
    ["another version", with_(0, "ironclaw-approval@2")],
    ["another kind", with_(1, "for: everything")],
    ["the lines of another kind", with_(1, "for: window")],
    ["a line less", utf8(lines.toSpliced(5, 1).join("\n"))],
    ["a line twice", utf8(lines.toSpliced(5, 0, lines[5] ?? "").join("\n"))],
    ["two lines exchanged", utf8([...lines.slice(0, 7), lines[8], lines[7], ...lines.slice(9)].join("\n"))],
    ["a line more", utf8(`${lines.join("\n")}note: harmless\n`)],
    ["no last line feed", operation.slice(0, -1)],
    ["carriage returns", utf8(lines.join("\r\n"))],
    ["an escape in capitals", with_(7, "scope: \\x0A")],
    ["an escape of what needs none", with_(7, "scope: \\x61")],
    ["an escape that is no UTF-8", with_(7, "scope: \\xff")],
    ["half an escape", with_(7, "scope: \\x0")],
    ["a bare backslash", with_(7, "scope: \\n")],
    ["what is no ASCII", with_(7, "scope: \u00e9")],
    ["no space", with_(7, "scope:signing")],
    [
      "all the bytes that a text has, and no line feed at the end",
      utf8(lines.join("\n").padEnd(MAX_APPROVAL_TEXT, "x")),
    ],
    ["more bytes than a text has", utf8(lines.join("\n") + "x".repeat(MAX_APPROVAL_TEXT))],
  ])("with %s are refused with a typed error", (_, bytes) => {
    expect(() => parseApprovalText(bytes)).toThrow(PolicyError);
  });

  test("no byte of one is free: with another byte it is none, or another request", () => {
    for (const text of [operation, textOf("night")]) {
      for (let index = 0; index < text.length; index++) {
        const changed = text.with(index, (text[index] ?? 0) ^ 0x01);
        try {
          expect(parseApprovalText(changed)).not.toEqual(parseApprovalText(text));
        } catch (error) {
          expect(error).toBeInstanceOf(PolicyError);
        }
      }
    }
  });
});
