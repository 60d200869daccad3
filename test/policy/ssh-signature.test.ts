import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  concatBytes,
  encodeSshKeyBlob,
  encodeSshKeyLine,
  encodeSshSignature,
  fromBase64,
  fromHex,
  isEd25519Point,
  openEd25519,
  parseSshKeyBlob,
  parseSshKeyLine,
  parseSshSignature,
  respellSshSignature,
  type SshSignature,
  sshFingerprint,
  sshSignedData,
  toBase64,
  utf8,
  verifyEd25519,
  verifySshSignature,
} from "../../policy/index.ts";
import { APPROVAL_NAMESPACE, openSshFolder, refusal, type SshFolder, testSshKey } from "../support/ssh-keys.ts";

const MESSAGE = utf8("ironclaw-approval@1\nfor: operation\n");
const SIGNED = { namespace: APPROVAL_NAMESPACE, message: MESSAGE, verifyRequired: false };
const L = 2n ** 252n + 27742317777372353535851937790883648493n;
const P = 2n ** 255n - 19n;

const littleEndian = (value: bigint) => fromHex(value.toString(16).padStart(64, "0")).reverse();
/** Every encoding of the eight points of small order, canonical or not. */
const SMALL = [0n, 1n, P - 1n, P, P + 1n]
  .map(littleEndian)
  .concat(
    fromHex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    fromHex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
  )
  .flatMap((point) => [point, concatBytes(point.subarray(0, 31), Uint8Array.of((point[31] ?? 0) | 0x80))]);

let ssh: SshFolder;
let lines: Readonly<Record<"alice" | "rsa" | "ecdsa", string>>;
beforeAll(() => {
  ssh = openSshFolder();
  const line = (name: "alice" | "rsa" | "ecdsa") => ssh.newKey(name, name === "alice" ? "ed25519" : name, "alice");
  lines = { alice: line("alice"), rsa: line("rsa"), ecdsa: line("ecdsa") };
});
afterAll(() => ssh?.[Symbol.dispose]());

describe("I8: what the real ssh-keygen signs", () => {
  test.each([["sha512"], ["sha256"]])("over %s is read, written back as it is, and verifies", async (hash) => {
    const armored = ssh.sign("alice", MESSAGE, APPROVAL_NAMESPACE, ["-O", `hashalg=${hash}`]);
    const signature = parseSshSignature(armored);
    expect(signature).toMatchObject({ namespace: APPROVAL_NAMESPACE, hash, security: null });
    expect(encodeSshSignature(signature)).toBe(armored);
    expect(signature.key).toEqual(parseSshKeyLine(lines.alice).key);
    expect(await verifySshSignature(signature, SIGNED)).toBeNull();
    expect(await verifySshSignature(signature, { ...SIGNED, message: concatBytes(MESSAGE, utf8("\n")) })).toBe(
      "signature",
    );
  });

  test("in another namespace does not count", async () => {
    for (const namespace of ["file", "git", "ironclaw-approval@2", "ironclaw-approval"]) {
      const signature = parseSshSignature(ssh.sign("alice", MESSAGE, namespace));
      expect(await verifySshSignature(signature, SIGNED), namespace).toBe("namespace");
      expect(await verifySshSignature({ ...signature, namespace: APPROVAL_NAMESPACE }, SIGNED)).toBe("signature");
    }
  });

  test.each(["rsa", "ecdsa"] as const)("with an %s key is refused by name, and so is that key", (name) => {
    const type = name === "rsa" ? "ssh-rsa" : "ecdsa-sha2-nistp256";
    const expected = `ERR_KEY_MALFORMED SSH public key type: expected ssh-ed25519 or sk-ssh-ed25519@openssh.com, got ${type}`;
    expect(refusal(() => parseSshSignature(ssh.sign(name, MESSAGE)))).toBe(expected);
    expect(refusal(() => parseSshKeyLine(lines[name]))).toBe(expected);
  });

  test("what is signed here, ssh-keygen verifies: an Ed25519 key's signature, and a security key's", () => {
    for (const application of [null, "ssh:", "ssh:approvals"]) {
      const signer = testSshKey(application);
      const line = encodeSshKeyLine({ key: signer.key, verifyRequired: false, comment: "" });
      for (const hash of ["sha256", "sha512"] as const)
        expect(ssh.verifies(line, MESSAGE, signer.armored(MESSAGE, { hash })), `${application} ${hash}`).toBe(true);
      expect(ssh.verifies(line, utf8("another"), signer.armored(MESSAGE))).toBe(false);
    }
  });

  test("a fingerprint is the one that ssh-keygen shows", () => {
    const [, shown] = ssh.list("alice").split(" ");
    expect(sshFingerprint(parseSshKeyLine(lines.alice).key)).toBe(shown);
  });
});

describe("I8: a security key's signature", () => {
  const signer = testSshKey("ssh:");
  const flags = (value: number) => signer.sign(MESSAGE, { security: { flags: value, counter: 0xffff_ffff } });

  test("counts when its user has touched it, and not without", async () => {
    expect(await verifySshSignature(flags(1), SIGNED)).toBeNull();
    for (const value of [0, 4, 0x80, 0xfe])
      expect(await verifySshSignature(flags(value), SIGNED)).toBe("user presence");
  });

  test("of an approver with verify-required counts only when the user was verified too", async () => {
    const required = { ...SIGNED, verifyRequired: true };
    expect(await verifySshSignature(flags(5), required)).toBeNull();
    expect(await verifySshSignature(flags(1), required)).toBe("user verification");
    expect(await verifySshSignature(testSshKey().sign(MESSAGE), required)).toBe("user verification");
  });

  test("binds flags, counter and application: none of them can be another", async () => {
    const good = flags(1);
    const security = { flags: 1, counter: 0xffff_ffff };
    for (const changed of [
      { ...good, security: { ...security, flags: 5 } },
      { ...good, security: { ...security, counter: 0 } },
      { ...good, key: { ...good.key, application: "ssh:other" } },
      { ...good, hash: "sha256" as const },
    ])
      expect(await verifySshSignature(parseSshSignature(encodeSshSignature(changed)), SIGNED)).toBe("signature");
  });

  test("is none of the plain key with the same point, and the reverse", async () => {
    const seed = new Uint8Array(32).fill(7);
    const [plain, security] = [testSshKey(null, seed), testSshKey("ssh:", seed)];
    expect(plain.key.point).toEqual(security.key.point);
    const asPlain: SshSignature = { ...security.sign(MESSAGE), key: plain.key, security: null };
    const asSecurity = { ...plain.sign(MESSAGE), key: security.key, security: { flags: 1, counter: 0 } };
    for (const forged of [asPlain, asSecurity]) expect(await verifySshSignature(forged, SIGNED)).toBe("signature");
  });
});

describe("I8: an Ed25519 key or signature that platforms do not agree about", () => {
  test("a key of small order, in any encoding, is none: with it one signature is good for every message", async () => {
    for (const point of SMALL) {
      expect(isEd25519Point(point)).toBe(false);
      const blob = encodeSshKeyBlob({ type: "ssh-ed25519", point, application: null });
      expect(refusal(() => parseSshKeyBlob(blob))).toMatch(/^ERR_KEY_MALFORMED SSH public key point/);
      expect(await verifyEd25519(point, MESSAGE, concatBytes(littleEndian(1n), new Uint8Array(32)))).toBe(false);
    }
  });

  test("ssh-keygen takes such a signature, for whatever message: the check is not in vain", () => {
    const identity = littleEndian(1n);
    const key = { type: "ssh-ed25519", point: identity, application: null } as const;
    const line = encodeSshKeyLine({ key, verifyRequired: false, comment: "" });
    const signature = concatBytes(identity, new Uint8Array(32));
    const forged = { key, namespace: APPROVAL_NAMESPACE, hash: "sha512", security: null, signature } as const;
    for (const message of [MESSAGE, utf8("anything")])
      expect(ssh.verifies(line, message, encodeSshSignature(forged))).toBe(true);
    expect(refusal(() => parseSshSignature(encodeSshSignature(forged)))).toMatch(/^ERR_KEY_MALFORMED/);
  });

  test("no number that is not below the field's prime is a point, nor one off the curve", () => {
    for (let y = P; y < 2n ** 255n; y += 1n) expect(isEd25519Point(littleEndian(y))).toBe(false);
    const onCurve = Array.from({ length: 64 }, (_, index) => isEd25519Point(littleEndian(BigInt(index) + 2n)));
    expect(onCurve.filter(Boolean).length).toBeGreaterThan(16);
    expect(onCurve.filter(Boolean).length).toBeLessThan(48);
  });

  test("S plus the group's order is no second form of a signature, and a small R none either", async () => {
    const good = testSshKey().sign(MESSAGE);
    const s = good.signature.slice(32).reduceRight((value, byte) => (value << 8n) | BigInt(byte), 0n);
    const second = concatBytes(good.signature.slice(0, 32), littleEndian(s + L));
    expect(await verifySshSignature({ ...good, signature: second }, SIGNED)).toBe("signature");
    for (const point of SMALL) {
      const signature = concatBytes(point, good.signature.slice(32));
      expect(await verifySshSignature({ ...good, signature }, SIGNED)).toBe("signature");
    }
  });

  test("without node:crypto WebCrypto says the same, of good ones and of changed ones", async () => {
    const onWeb = openEd25519({});
    const { key, signature } = testSshKey().sign(MESSAGE);
    const data = sshSignedData({ namespace: APPROVAL_NAMESPACE, hash: "sha512" }, MESSAGE);
    for (const [point, bytes, good] of [
      [key.point, data, true],
      [key.point, MESSAGE, false],
      [testSshKey().key.point, data, false],
      [littleEndian(2n), data, false],
    ] as const) {
      expect(await onWeb(point, bytes, signature)).toBe(good);
      expect(await verifyEd25519(point, bytes, signature)).toBe(good);
    }
  });
});

describe("I10: an armored signature", () => {
  const signer = testSshKey("ssh:", new Uint8Array(32).fill(9));
  const armored = signer.armored(MESSAGE);
  const cut = (text: string, from: number, to: number, put: string) => text.slice(0, from) + put + text.slice(to);

  test("is taken in lines of 76 characters too, as the format's document has them, and without the last line feed", () => {
    const wide = encodeSshSignature(signer.sign(MESSAGE), 76);
    expect(wide).not.toBe(armored);
    expect(parseSshSignature(wide)).toEqual(parseSshSignature(armored.trimEnd()));
  });

  test.each([
    ["nothing", ""],
    ["text before it", ` ${armored}`],
    ["text behind it", `${armored}\n`],
    ["two of them", armored + armored],
    ["carriage returns", armored.replaceAll("\n", "\r\n")],
    ["lines of another length", armored.replace(/(.{10})\n/, "\n$1")],
    ["one line", armored.replaceAll(/([A-Za-z0-9+/]{70})\n/g, "$1")],
    ["a space", cut(armored, 40, 40, " ")],
    ["no base64", cut(armored, 40, 41, "%")],
    ["another BEGIN line", armored.replace("SSH SIGNATURE", "PGP SIGNATURE")],
    ["a mebibyte of it", armored.repeat(1 << 10)],
  ])("with %s is refused", (_, text) => {
    expect(refusal(() => parseSshSignature(text))).toMatch(/^ERR_SIGNATURE_MALFORMED SSH signature armor/);
  });

  test("of whatever bytes is read back the same or refused with a typed error, and no byte of one is free", async () => {
    const blob = fromBase64(armored.split("\n").slice(1, -2).join(""));
    const wrap = (bytes: Uint8Array) =>
      `-----BEGIN SSH SIGNATURE-----\n${(toBase64(bytes).match(/.{1,70}/g) ?? []).join("\n")}\n-----END SSH SIGNATURE-----\n`;
    expect(wrap(blob)).toBe(armored);
    for (let at = 0; at < blob.length; at++) {
      const changed = Uint8Array.from(blob);
      changed[at] = (changed[at] ?? 0) ^ 0x10;
      const text = wrap(changed);
      if (!refusal(() => parseSshSignature(text)).startsWith("taken")) continue;
      const signature = parseSshSignature(text);
      expect(encodeSshSignature(signature)).toBe(text);
      const isSame = toBase64(encodeSshKeyBlob(signature.key)) === toBase64(encodeSshKeyBlob(signer.key));
      expect((await verifySshSignature(signature, SIGNED)) === null && isSame, `byte ${at}`).toBe(false);
    }
    for (const bytes of [blob.slice(0, -1), concatBytes(blob, Uint8Array.of(0)), blob.slice(1)])
      expect(refusal(() => parseSshSignature(wrap(bytes)))).toMatch(/^ERR_SIGNATURE_MALFORMED/);
  });

  test("of any key, namespace, hash and counter is written and read as the same", () => {
    const printable = fc.string({
      unit: fc.integer({ min: 0x21, max: 0x7e }).map((code) => String.fromCharCode(code)),
      minLength: 1,
      maxLength: 40,
    });
    const application = fc.option(printable);
    const security = fc.record({
      flags: fc.integer({ min: 0, max: 255 }),
      counter: fc.integer({ min: 0, max: 0xffff_ffff }),
    });
    fc.assert(
      fc.property(
        application,
        printable,
        fc.constantFrom("sha256" as const, "sha512" as const),
        security,
        (app, namespace, hash, sk) => {
          const key = testSshKey(app, new Uint8Array(32).fill(1)).key;
          const signature = {
            key,
            namespace,
            hash,
            signature: new Uint8Array(64).fill(5),
            security: app === null ? null : sk,
          };
          for (const width of [70, 76] as const)
            expect(parseSshSignature(encodeSshSignature(signature, width))).toEqual(signature);
        },
      ),
      { numRuns: 100 },
    );
  });
});

describe("a signature that people bring", () => {
  /** Other spellings of the same one. */
  const SPELLINGS: readonly (readonly [string, (lines: readonly string[]) => string])[] = [
    ["CR LF", (lines) => lines.join("\r\n")],
    ["CR LF, and its last line without", (lines) => `${lines.join("\n")}\r\n`],
    ["no line feed at the end", (lines) => lines.join("\n")],
    ["lines of 64", ([begin, ...rest]) => [begin, ...wrapped(rest, 64), rest.at(-1), ""].join("\n")],
    ["one line", ([begin, ...rest]) => [begin, ...wrapped(rest, 1000), rest.at(-1), ""].join("\n")],
    ["blank lines", (lines) => lines.join("\n\n")],
    [
      "indented lines",
      ([begin, ...rest]) => [begin, ...rest.slice(0, -1).map((line) => `  ${line}`), rest.at(-1)].join("\n"),
    ],
    ["more behind it", (lines) => `${lines.join("\n")}\nOn Tuesday somebody wrote:\n`],
    ["two of them", (lines) => [...lines, ...lines, ""].join("\n")],
    ["no padding", (lines) => lines.join("\n").replaceAll("=", "")],
    ["text before it", (lines) => `here it is:\n${lines.join("\n")}\n`],
    ["a header", ([begin, ...rest]) => [begin, "Version: 1", ...rest].join("\n")],
    ["another letter", (lines) => lines.join("\n").replace("U1NI", "U1NJ")],
    ["no end", (lines) => lines.slice(0, -1).join("\n")],
  ];
  const wrapped = (rest: readonly string[], width: number) =>
    rest
      .slice(0, -1)
      .join("")
      .match(new RegExp(`.{1,${width}}`, "g")) ?? [];

  test.each(SPELLINGS)(
    "I6: counts with %s where ssh-keygen verifies it, respelt as the machine reads it",
    (what, spell) => {
      const armored = ssh.sign("alice", MESSAGE);
      const spelt = spell(armored.trimEnd().split("\n"));
      const isTaken = respellSshSignature(spelt) === armored;
      if (ssh.verifies(lines.alice, MESSAGE, spelt)) expect(isTaken).toBe(true);
      if (what.startsWith("CR LF")) expect(isTaken).toBe(true);
      if (!isTaken)
        expect(refusal(() => parseSshSignature(respellSshSignature(spelt)))).toMatch(/^ERR_SIGNATURE_MALFORMED/);
    },
  );
});
