import { execFileSync } from "node:child_process";
import { X509Certificate } from "node:crypto";
import { mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { makeTpmState, startSwtpm, type TpmState } from "../../vm-images/swtpm.ts";

const directory = mkdtempSync(join(tmpdir(), "tpm-"));
const caDirectory = join(directory, "ca");
afterAll(() => rmSync(directory, { recursive: true }));
let state: TpmState;
beforeAll(async () => {
  state = await makeTpmState({ directory: join(directory, "state"), caDirectory });
});

describe("makeTpmState", () => {
  it("both endorsement certificates verify up to the CA of our own, which is kept private", () => {
    for (const [name, certificate] of Object.entries(state.ekCertificates)) {
      const pem = join(directory, `${name}.pem`);
      writeFileSync(pem, new X509Certificate(certificate).toString());
      const verdict = execFileSync("openssl", ["verify", "-CAfile", state.caRoot, "-untrusted", state.caIssuer, pem], {
        encoding: "utf8",
      });
      expect(verdict.trim()).toBe(`${pem}: OK`);
    }
    expect(new X509Certificate(state.ekCertificates.rsa2048).publicKey.asymmetricKeyDetails?.modulusLength).toBe(2048);
    expect(new X509Certificate(state.ekCertificates.p384).publicKey.asymmetricKeyDetails?.namedCurve).toBe("secp384r1");
    expect(statSync(caDirectory).mode & 0o777).toBe(0o700);
  });

  it("the TPM holds the same certificates in NV and has the banks sha256 and sha384", async () => {
    const socket = join(directory, "t.sock");
    await using tpm = await startSwtpm({ directory: state.directory, socket, user: "tcti" });
    const tool = (name: string, ...args: string[]): Buffer =>
      execFileSync(name, args, { env: { ...process.env, TPM2TOOLS_TCTI: `swtpm:path=${socket}` } });
    expect(tpm.pid).toBeGreaterThan(0);
    expect(new Uint8Array(tool("tpm2_nvread", "-C", "o", "0x01c00002"))).toEqual(state.ekCertificates.rsa2048);
    expect(new Uint8Array(tool("tpm2_nvread", "-C", "o", "0x01c00016"))).toEqual(state.ekCertificates.p384);
    const banks = tool("tpm2_getcap", "pcrs").toString();
    expect(banks).toMatch(/sha256: \[ 0,/);
    expect(banks).toMatch(/sha384: \[ 0,/);
    expect(banks).toMatch(/sha1: \[ ?\]/);
  });

  it("two TPMs of one CA have different endorsement keys", async () => {
    const other = await makeTpmState({ directory: join(directory, "other"), caDirectory });
    expect(other.caRoot).toBe(state.caRoot);
    expect(other.ekCertificates.p384).not.toEqual(state.ekCertificates.p384);
  });
});

describe("startSwtpm", () => {
  it("a socket path that does not fit is refused with advice", async () => {
    const socket = join(directory, "x".repeat(120));
    await expect(startSwtpm({ directory: state.directory, socket })).rejects.toMatchObject({ code: "ERR_VM_START" });
  });

  it("a directory that cannot hold a state is refused, and stop may be called twice", async () => {
    const bad = startSwtpm({ directory: join(directory, "none"), socket: join(directory, "n.sock") });
    await expect(bad).rejects.toMatchObject({ code: "ERR_VM_TPM" });
    const tpm = await startSwtpm({ directory: state.directory, socket: join(directory, "q.sock") });
    await tpm.stop();
    await tpm.stop();
  });
});
