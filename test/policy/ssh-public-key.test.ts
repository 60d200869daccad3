import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  concatBytes,
  encodeSshKeyBlob,
  encodeSshKeyLine,
  fromBase64,
  parseSshKeyLine,
  sshFingerprint,
  toBase64,
} from "../../policy/index.ts";
import { parsePolicy } from "../../policy/policy.ts";
import { documentBytes, policyDocument } from "../support/policy-document.ts";
import { refusal, testSshKey } from "../support/ssh-keys.ts";

describe("I10: a line with a public key", () => {
  const { key } = testSshKey("ssh:", new Uint8Array(32).fill(3));
  const line = encodeSshKeyLine({ key, verifyRequired: true, comment: "Alice, her desk" });
  const blob = toBase64(encodeSshKeyBlob(key));

  test("is read and written back as it is, options and comment too", () => {
    for (const text of [line, `${key.type} ${blob}`, `${key.type} ${blob} x`])
      expect(encodeSshKeyLine(parseSshKeyLine(text))).toBe(text);
  });

  test("may have any printable text for its comment, and what is wrong with another is named", () => {
    for (const comment of ["jos\u00e9@laptop", "\u82b1\u5b50 \u00b7 \u{1f511}", "a  b"])
      expect(parseSshKeyLine(`${key.type} ${blob} ${comment}`).comment).toBe(comment);
    const text = (unit: "binary" | "grapheme") => fc.string({ unit, minLength: 1, maxLength: 20 });
    const comments = fc.oneof(text("binary"), text("grapheme"));
    const printable = /^(?! )[^\p{C}\p{Zl}\p{Zp}]*$/u;
    fc.assert(
      fc.property(comments, (comment) => {
        const whole = `${key.type} ${blob} ${comment}`;
        if (printable.test(comment) && comment.trim() === comment)
          expect(encodeSshKeyLine(parseSshKeyLine(whole))).toBe(whole);
        else
          expect(refusal(() => parseSshKeyLine(whole))).toMatch(/^ERR_KEY_MALFORMED SSH public key comment: expected /);
      }),
      { numRuns: 30 },
    );
  });

  const COMMENT = "comment: expected printable characters";
  test.each([
    ["a tab in its comment", `${key.type} ${blob} a\tb`, `${COMMENT}, got U+0009`, /comment: .*got u\+0009$/],
    ["a turn in its comment", `${key.type} ${blob} a\u202eb`, `${COMMENT}, got U+202E`, /expected visible characters/],
    ["a private character", `${key.type} ${blob} a\ue000`, `${COMMENT}, got U+E000`, /comment: .*got u\+e000$/],
    ["a space too many", `${key.type} ${blob} a `, "comment: expected a text without spaces at its ends", /spaces at/],
    ["a tab for a space", `${key.type}\t${blob}`, "line: expected TYPE BASE64 [COMMENT]", /line: expected type base64/],
    ["too long a comment", `${key.type} ${blob} ${"x".repeat(1024)}`, "line: expected at most 1024", /too big: [^;]*$/],
    ["another kind of key", "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQ==", "type: expected ssh-ed25519", /got ssh-rsa$/],
  ])("with %s is refused for that, and so is a policy with it", (_, text, message, finding) => {
    expect(refusal(() => parseSshKeyLine(text))).toContain(`SSH public key ${message}`);
    const document = Object.assign(policyDocument(), { approvers: { alice: { key: text, notFor: [] } } });
    expect(refusal(() => parsePolicy(documentBytes(document)))).toMatch(finding);
  });

  test("may stand in a policy with a comment in any script", () => {
    const approvers = { alice: { key: `${key.type} ${blob} \u82b1\u5b50`, notFor: [] } };
    const document = Object.assign(policyDocument(), { approvers });
    expect(parsePolicy(documentBytes(document)).approvers).toEqual(approvers);
  });

  test("says nothing by its comment: look-alikes with one comment are two keys", () => {
    const other = testSshKey("ssh:").key;
    const [a, b] = [key, other].map((each) =>
      parseSshKeyLine(encodeSshKeyLine({ key: each, verifyRequired: false, comment: "alice" })),
    );
    expect(a?.comment).toBe(b?.comment);
    expect(sshFingerprint(a?.key ?? key)).not.toBe(sshFingerprint(b?.key ?? key));
  });

  test.each([
    ["nothing", ""],
    ["another type than the key's", `ssh-ed25519 ${blob}`],
    ["a certificate", `sk-ssh-ed25519-cert-v01@openssh.com ${blob}`],
    ["another option", `no-touch-required ${key.type} ${blob}`],
    ["two options", `verify-required verify-required ${key.type} ${blob}`],
    [
      "verify-required where nobody can be verified",
      `verify-required ${encodeSshKeyLine({ key: testSshKey().key, verifyRequired: false, comment: "" })}`,
    ],
    ["two spaces", `${key.type}  ${blob}`],
    ["a space at the end", `${key.type} ${blob} `],
    ["a line feed", `${key.type} ${blob}\n`],
    ["a second line", `${line}\n${line}`],
    ["base64 without its padding", `${key.type} ${blob.replaceAll("=", "")}`],
    ["bytes behind the key", `${key.type} ${toBase64(concatBytes(fromBase64(blob), Uint8Array.of(0)))}`],
    ["a cut key", `${key.type} ${toBase64(fromBase64(blob).slice(0, -1))}`],
    ["a comment that hides something", `${key.type} ${blob} a\u202eb`],
    ["more than a line has", `${key.type} ${blob} ${"x".repeat(1024)}`],
  ])("with %s is refused", (_, text) => {
    expect(refusal(() => parseSshKeyLine(text))).toMatch(/^ERR_KEY_MALFORMED/);
  });
});
