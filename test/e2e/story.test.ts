import { spawn } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { StoryResult, TamperedBoot } from "../../vm-images/story/story.ts";

const root = resolve(import.meta.dirname, "../..");

/** Where these runs put their files: what else goes on on this machine is not theirs. */
const temporary = mkdtempSync(join(tmpdir(), "ironclaw-"));
afterAll(() => rmSync(temporary, { recursive: true, force: true }));

interface Run {
  readonly code: number | null;
  readonly output: string;
  readonly progress: string;
}

/** What a user types, less the set-up script that `npm test` has run already. */
function runStart(args: readonly string[]): Promise<Run> {
  return new Promise((settle, reject) => {
    const child = spawn(process.execPath, ["vm-images/start.ts", ...args], {
      cwd: root,
      env: { ...process.env, TMPDIR: temporary },
      stdio: ["ignore", "pipe", "pipe"],
    });
    const output: Buffer[] = [];
    const progress: Buffer[] = [];
    child.stdout.on("data", (chunk: Buffer) => output.push(chunk));
    child.stderr.on("data", (chunk: Buffer) => progress.push(chunk));
    child.on("error", reject);
    child.on("close", (code) => {
      settle({ code, output: Buffer.concat(output).toString(), progress: Buffer.concat(progress).toString() });
    });
  });
}

/** Command lines of the QEMU and swtpm processes of these runs. */
function machines(): string[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .flatMap((pid) => {
      try {
        return [readFileSync(`/proc/${pid}/cmdline`, "latin1").split("\0").join(" ")];
      } catch {
        return []; // ended meanwhile
      }
    })
    .filter((line) => /^(qemu-system|swtpm )/.test(line) && line.includes(`${temporary}/`));
}

describe("npm start -- --json", () => {
  let run: Run;
  let story: StoryResult;

  beforeAll(async () => {
    run = await runStart(["--json"]);
    const last = run.output.trim().split("\n").at(-1) ?? "";
    if (last === "") throw new Error(`npm start ended with ${run.code}: ${run.progress.slice(-2000)}`);
    story = JSON.parse(last);
  });

  const tampered = (what: RegExp): TamperedBoot => {
    const boot = story.tampered.find((candidate) => what.test(candidate.what));
    if (boot === undefined) throw new Error(`no tampered boot ${what}`);
    return boot;
  };

  it("exits 0 exactly because all of it held", () => {
    expect(story.ok).toBe(true);
    expect(run.code).toBe(0);
  });

  it("leaves no machine and no software TPM running", () => {
    expect(machines()).toEqual([]);
  });

  it("I2: a measured VM unseals its PIN by itself, before and after tampered boots of the same TPM", () => {
    expect(story.verdict).toBe("affirming");
    expect(story.cleanAgain).toEqual({ unsealed: true, verdict: "affirming" });
  });

  it("I9: the verdict names the assurance class that the policy had to accept by name", () => {
    expect(story.assurance).toBe("software-tpm");
  });

  it("I12: PCR 4, 9, 11 and 12 computed before the first boot equal the quoted ones in both banks", () => {
    expect(story.predictionHolds).toEqual({ sha256: true, sha384: true });
  });

  it("I1: library, closure, profile and configuration are events of the agent PCR, each as the release expects it", () => {
    const kinds = story.measured.map(({ kind }) => kind);
    for (const kind of [
      "config",
      "anchors",
      "policy",
      "profile",
      "library",
      "closure",
      "file",
      "environment",
      "devices",
    ]) {
      expect(kinds).toContain(kind);
    }
    const names = story.measured.map(({ name }) => name).join("\n");
    expect(names).toMatch(/ld-linux|libc\.so\.6/);
    expect(names).toContain("/shim");
    for (const { expected, got } of story.measured) expect(expected === null || expected === got).toBe(true);
  });

  it("I3: the last event before serving is the cap", () => {
    const last = story.measured.at(-1);
    expect([last?.kind, last?.name]).toEqual(["cap", "serving"]);
  });

  it("I6: stock clients and our own sign a nonce made after the boot, and the host verifies each signature with the public key", () => {
    expect(story.signature.verified).toBe(true);
    expect(story.signature.by.map(({ client }) => client)).toEqual([
      "pkcs11js",
      "pkcs11-tool",
      "pkcs11js",
      "openssl engine",
      "native client",
    ]);
  });

  it("I6: a second uid reaches the socket, is refused on record, and the same bytes succeed from the scoped uid", () => {
    expect(story.deniedCaller).toBe(true);
    expect(story.denial.auditSeq).toBeGreaterThan(0);
    expect(story.denial.sameBytesSucceedFor).toBe(2001);
  });

  it("I4: no copy of the PIN in guest memory, disks or logs, where a planted canary of equal length is found", () => {
    expect(story.pinCopies.memory).toBe(0);
    expect(story.pinCopies.filesAndLogs).toBe(0);
    expect(story.pinCopies.canary).toBeGreaterThan(0);
  });

  it.each([/library/, /rule/, /initrd/])(
    "I2: after tampering (%s) the TPM itself refuses the PIN and the verdict is contraindicated",
    (what) => {
      const boot = tampered(what);
      expect(boot.unsealed).toBe(false);
      expect(boot.tpmRc).toBe("0x0000099d");
      expect(boot.answers.length).toBeGreaterThan(0);
      expect(boot.verdict).toBe("contraindicated");
      expect(boot.reasons.length).toBeGreaterThan(0);
      for (const { expected, got } of boot.reasons) expect(expected).not.toBe(got);
    },
  );

  it("I1: one changed byte of the library leaves the boot PCRs as they are and shows in the library's own event", () => {
    const boot = tampered(/library/);
    expect(boot.bootPcrsEqual).toBe(true);
    expect(boot.reasons.some(({ item }) => item.includes("libsofthsm2.so"))).toBe(true);
  });

  it("I2: a policy that was widened on the disk shows in the policy's own event", () => {
    const boot = tampered(/rule/);
    expect(boot.bootPcrsEqual).toBe(true);
    expect(boot.reasons.some(({ item }) => /policy/.test(item))).toBe(true);
  });

  it("I2: a file added to the initrd shows in PCR 4, 9 and 11", () => {
    const boot = tampered(/initrd/);
    expect(boot.bootPcrsEqual).toBe(false);
    for (const pcr of ["PCR 4", "PCR 9", "PCR 11"])
      expect(boot.reasons.some(({ item }) => item.startsWith(pcr))).toBe(true);
  });

  it("says how long each step took", () => {
    for (const { step, ms } of story.timings) expect([step, ms >= 0]).toEqual([step, true]);
    expect(story.timings.length).toBeGreaterThan(8);
  });
});

describe("npm start", () => {
  it("answers an unknown option with the usage and exit code 2, without a stack trace", async () => {
    const { code } = await runStart(["--unknown"]);
    expect(code).toBe(2);
  });
});
