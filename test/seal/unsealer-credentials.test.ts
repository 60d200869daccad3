import { spawn } from "node:child_process";
import { createCipheriv, randomBytes } from "node:crypto";
import { once } from "node:events";
import { closeSync, readFileSync, readSync, writeSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openNative } from "../../agent/native/index.ts";
import { concatBytes, measureObjectPolicy, type Release, utf8 } from "../../policy/index.ts";
import { openEkCertificate } from "../../seal/ek-public.ts";
import { encodeImportBlob } from "../../seal/import-blob.ts";
import { type CredentialLabel, encodeCredentialLabel, type SealedPackage } from "../../seal/package.ts";
import { padSecret } from "../../seal/padding.ts";
import { runUnsealer, unsealRequest } from "../../seal/unseal.ts";
import { defineEpoch } from "../support/epoch-fixture.ts";
import { findInMemory } from "../support/process-memory.ts";
import {
  bootInto,
  createSealKeys,
  delivered,
  drain,
  type Imported,
  importInto,
  LABEL,
  makeRelease,
  NATIVE_DIRECTORY,
  openPipes,
  openSealed,
  releaseDraft,
  type SealKeys,
  UNSEALER,
  unsealWith,
} from "../support/seal-fixture.ts";
import { type SoftwareTpm, startSwtpm } from "../support/swtpm.ts";
import { readEkCertificate } from "../support/tpm-tools.ts";

let tpm: SoftwareTpm;
let keys: SealKeys;
let release: Release;
let pin: Imported;
let key: Imported;

const TLS_KEY = utf8("-----BEGIN PRIVATE KEY-----");
const NOTHING = [new Uint8Array()];
const NOT_DECRYPTED = {
  answer: {
    kind: "failed",
    command: "decrypt",
    rc: "0x00000000",
    text: "the ciphertext does not belong to key and label",
  },
  received: NOTHING,
};

beforeAll(async () => {
  tpm = await startSwtpm();
  keys = await createSealKeys();
  await defineEpoch(tpm, keys);
  release = await makeRelease(keys, releaseDraft(), { credentials: ["hsm-pin", "tls-key"], lastEpoch: 4 });
  pin = await openSealed(tpm, "p384", keys);
  const label = { name: "tls-key", kind: "file", tokenSerial: null } as const;
  key = await openSealed(tpm, "p384", keys, { secret: TLS_KEY, label });
  await bootInto(tpm);
});
afterAll(() => tpm?.stop());

const unseal = (each: Imported, options: { discard?: boolean } = {}) => unsealWith(tpm, each, release, keys, options);
const relabelled = (change: Partial<CredentialLabel>): Imported => ({ ...pin, sealed: { ...pin.sealed, ...change } });
const flip = (bytes: Uint8Array, index: number) => bytes.map((byte, at) => (at === index ? byte ^ 1 : byte));

/** Sealed by somebody who holds the operator's key and may follow the format only half way. */
async function craft(data: Uint8Array, padded: Uint8Array): Promise<Imported> {
  const ek = openEkCertificate(await readEkCertificate(tpm, "p384"));
  const label = { ...LABEL, ekName: ek.name };
  const nonce = Uint8Array.from(randomBytes(12));
  const cipher = createCipheriv("aes-256-gcm", data.subarray(0, 32), nonce).setAAD(encodeCredentialLabel(label));
  const ciphertext = concatBytes(cipher.update(padded), cipher.final(), cipher.getAuthTag());
  const blob = encodeImportBlob(ek, measureObjectPolicy(keys.root.spkiPem, LABEL.name), data);
  const sealed: SealedPackage = { version: 2, ...label, ...blob, nonce, ciphertext };
  return { sealed, imported: await importInto(tpm, sealed) };
}

describe("two credentials of one machine", () => {
  it("I2: each opens to its own secret under one release", async () => {
    expect((await unseal(pin)).received).toEqual([delivered()]);
    expect((await unseal(key)).received).toEqual([delivered(TLS_KEY)]);
  });

  it("I2: with their blobs swapped neither opens, and nothing is written", async () => {
    const blobOf = ({ sealed, imported }: Imported) => ({ imported, objectPublic: sealed.objectPublic });
    const swap = (label: Imported, blob: Imported): Imported => ({
      sealed: { ...label.sealed, objectPublic: blobOf(blob).objectPublic },
      imported: blobOf(blob).imported,
    });
    const withCipher = (label: Imported, blob: Imported): Imported => {
      const { nonce, ciphertext } = blob.sealed;
      const swapped = swap(label, blob);
      return { ...swapped, sealed: { ...swapped.sealed, nonce, ciphertext } };
    };
    for (const [one, other] of [
      [pin, key],
      [key, pin],
    ] as const) {
      for (const each of [swap(one, other), withCipher(one, other)]) {
        const { answer, received } = await unseal(each);
        expect(answer).toMatchObject({ kind: "refused", answers: [{ command: "TPM2_Unseal", rc: "0x0000099d" }] });
        expect(received).toEqual(NOTHING);
      }
      // The ciphertext alone: the TPM releases a key that is not the one.
      const { nonce, ciphertext } = other.sealed;
      expect(await unseal({ ...one, sealed: { ...one.sealed, nonce, ciphertext } })).toEqual(NOT_DECRYPTED);
    }
  });

  it("I2: an older generation under a newer one's label does not open", async () => {
    const newer = await openSealed(tpm, "p384", keys, { secret: utf8("newer"), label: { generation: 2 } });
    const { nonce, ciphertext, objectPublic } = pin.sealed;
    const { imported } = pin;
    expect(await unseal({ imported, sealed: { ...newer.sealed, nonce, ciphertext, objectPublic } })).toEqual(
      NOT_DECRYPTED,
    );
    expect((await unseal(newer)).received).toEqual([delivered(utf8("newer"))]);
  });

  it.each<[string, Partial<CredentialLabel>]>([
    ["kind", { kind: "volume-key" }],
    ["generation", { generation: 2 }],
    ["notAfter", { notAfter: "2030-01-01T00:00:00Z" }],
    ["tokenSerial", { tokenSerial: "0123456789abcdeg" }],
    ["tokenSerial", { tokenSerial: null }],
  ])("I2: another %s in the label and the secret does not open", async (_field, change) => {
    expect(await unseal(relabelled(change))).toEqual(NOT_DECRYPTED);
    expect((await unseal(relabelled(change), { discard: true })).answer).toEqual({ kind: "discarded" });
  });

  it("I2: another name or EK in the label does not get as far as the cipher", async () => {
    expect((await unseal(relabelled({ name: "tls-key" }))).answer).toMatchObject({
      kind: "refused",
      answers: [{ command: "TPM2_Unseal", rc: "0x0000099d" }],
    });
    expect((await unseal(relabelled({ ekName: flip(pin.sealed.ekName, 20) }))).answer).toMatchObject({
      kind: "failed",
      text: "tpm replaced",
    });
  });
});

describe("secrets of every size", () => {
  const secretOf = (length: number) => Uint8Array.from({ length }, (_, index) => (index * 31 + length) & 0xff);

  it.each([1, 62, 63, 126, 4096, 32_766])("I4: %i bytes arrive as they were sealed", async (length) => {
    for (const ek of ["p384", "rsa"] as const) {
      const sealed = await openSealed(tpm, ek, keys, { secret: secretOf(length) });
      expect((await unseal(sealed)).received).toEqual([delivered(secretOf(length))]);
    }
  });

  it("I10: a secret larger than what a pipe still holds arrives once the pipe is read", async () => {
    const secret = secretOf(32_766);
    const sealed = await openSealed(tpm, "p384", keys, { secret });
    const request = unsealRequest({ ...sealed, release, anchors: keys.anchors });
    const [pipe] = await openPipes(1);
    if (pipe === undefined) throw new Error("a pipe");
    writeSync(pipe.writeEnd, new Uint8Array(60_000));
    const parts: Uint8Array[] = [];
    const reading = setInterval(() => parts.push(drain(pipe.readEnd)), 50);
    const answer = await runUnsealer({ path: UNSEALER, tcti: tpm.tcti, request, sinks: [pipe.writeEnd] });
    clearInterval(reading);
    const received = concatBytes(...parts, drain(pipe.readEnd));
    expect(answer.kind).toBe("released");
    expect(received.subarray(60_000)).toEqual(delivered(secret));
    for (const fd of [pipe.readEnd, pipe.writeEnd]) closeSync(fd);
  });

  it("I4: a socket is a sink as well as a pipe", async () => {
    const addon = openNative(NATIVE_DIRECTORY);
    const [ours, theirs] = addon.socketPair("stream");
    const secret = secretOf(32_766);
    const sealed = await openSealed(tpm, "p384", keys, { secret });
    const request = unsealRequest({ ...sealed, release, anchors: keys.anchors });
    const answer = await runUnsealer({ path: UNSEALER, tcti: tpm.tcti, request, sinks: [theirs] });
    addon.closeFd(theirs);
    const buffer = new Uint8Array(65_536);
    let length = 0;
    for (let got = -1; got !== 0; length += got) got = readSync(ours, buffer, length, buffer.length - length, null);
    addon.closeFd(ours);
    expect(answer.kind).toBe("released");
    expect(buffer.subarray(0, length)).toEqual(delivered(secret));
  });
});

describe("the unsealer's memory", () => {
  /** Runs `look` while the unsealer waits for a sink that is full. */
  async function whileWaiting(request: Uint8Array, look: (pid: number) => void): Promise<void> {
    const [pipe] = await openPipes(1);
    if (pipe === undefined) throw new Error("a pipe");
    writeSync(pipe.writeEnd, new Uint8Array(65_536));
    const child = spawn(UNSEALER, [tpm.tcti], { stdio: ["pipe", "ignore", "ignore", pipe.writeEnd], env: {} });
    const ended = once(child, "exit");
    child.stdin?.end(request);
    const pid = child.pid ?? 0;
    await expect.poll(() => readFileSync(`/proc/${pid}/wchan`, "utf8"), { timeout: 5000 }).toMatch(/poll/);
    look(pid);
    drain(pipe.readEnd);
    expect(await ended).toEqual([0, null]);
    for (const fd of [pipe.readEnd, pipe.writeEnd]) closeSync(fd);
  }

  it("I4: holds the secret once, in locked pages that no dump and no child has", async () => {
    const secret = randomBytes(4096);
    const sealed = await openSealed(tpm, "p384", keys, { secret });
    await whileWaiting(unsealRequest({ ...sealed, release, anchors: keys.anchors }), (pid) => {
      // Another user, this one included, may not even look.
      if (process.getuid?.() !== 0) expect(() => findInMemory(pid, secret)).toThrow(/EACCES|EPERM/);
      else
        expect(findInMemory(pid, secret)).toEqual([{ copies: 1, flags: expect.arrayContaining(["lo", "dd", "wf"]) }]);
    });
  });

  it("I4: holds the key no more once the secret is decrypted", async () => {
    const key = randomBytes(32);
    const sealed = await craft(key, padSecret(utf8("a secret")));
    await whileWaiting(unsealRequest({ ...sealed, release, anchors: keys.anchors }), (pid) => {
      if (process.getuid?.() === 0) expect(findInMemory(pid, key)).toEqual([]);
    });
  });
});

describe("what is damaged", () => {
  it("I10: every kind of damage ends in a failure by name, and nothing is written", async () => {
    const last = (bytes: Uint8Array) => bytes.length - 1;
    const { ciphertext, nonce, objectPublic } = pin.sealed;
    const cases: readonly (readonly [Partial<SealedPackage>, string])[] = [
      [{ ciphertext: flip(ciphertext, 0) }, "decrypt"],
      [{ ciphertext: flip(ciphertext, 63) }, "decrypt"],
      [{ ciphertext: flip(ciphertext, 64) }, "decrypt"],
      [{ ciphertext: flip(ciphertext, last(ciphertext)) }, "decrypt"],
      [{ nonce: flip(nonce, 0) }, "decrypt"],
      [{ nonce: flip(nonce, 11) }, "decrypt"],
      [{ objectPublic: flip(objectPublic, last(objectPublic)) }, "TPM2_Load"],
      [{ objectPublic: flip(objectPublic, 12) }, "TPM2_Load"],
    ];
    for (const [change, command] of cases) {
      const { answer, received } = await unseal({ ...pin, sealed: { ...pin.sealed, ...change } });
      expect(answer).toMatchObject({ kind: "failed", command });
      expect(received).toEqual(NOTHING);
    }
    for (const at of [0, 1, 3, 60, last(pin.imported)]) {
      const { answer, received } = await unseal({ ...pin, imported: flip(pin.imported, at) });
      expect(answer).toMatchObject({ kind: "failed", command: "TPM2_Load" });
      expect(received).toEqual(NOTHING);
    }
  });

  it("I10: a damaged blob is not imported", async () => {
    const { duplicate, encryptedSeed, objectPublic } = pin.sealed;
    for (const change of [
      { duplicate: flip(duplicate, 3) },
      { duplicate: flip(duplicate, duplicate.length - 1) },
      { encryptedSeed: flip(encryptedSeed, encryptedSeed.length - 1) },
      { objectPublic: flip(objectPublic, 12) },
    ]) {
      await expect(importInto(tpm, { ...pin.sealed, ...change })).rejects.toMatchObject({ name: "TpmError" });
    }
  });
});

describe("an operator's mistake that authenticates", () => {
  it("I10: a padded secret with length zero, or longer than itself, is not delivered", async () => {
    const length = (value: number) => {
      const padded = padSecret(utf8("a secret"));
      new DataView(padded.buffer).setUint16(0, value);
      return padded;
    };
    for (const value of [0, 63, 64, 65, 0xffff])
      expect(await unseal(await craft(randomBytes(32), length(value))), `${value}`).toEqual(NOT_DECRYPTED);
    const whole = await unseal(await craft(randomBytes(32), length(62)));
    expect(whole.received[0]).toHaveLength(2 + 62);
  });

  it("I4: an object that holds something else than a key of 32 bytes gives nothing away", async () => {
    const padded = padSecret(utf8("a secret"));
    expect(await unseal(await craft(randomBytes(64), padded))).toEqual(NOT_DECRYPTED);
    expect(await unseal(await craft(randomBytes(128), padded))).toEqual(NOT_DECRYPTED);
  });
});
