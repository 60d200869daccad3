import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { connect } from "node:net";
import { join, resolve } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { DevShell } from "../support/dev-shell.ts";
import { openTab, signIn, startBrowser } from "../support/page-browser.ts";

const root = resolve(import.meta.dirname, "../..");

interface Run {
  readonly code: number | null;
  readonly output: string;
  readonly complaints: string;
}

/** A script in the project's folder, as a person would type it there. */
async function typed(script: string): Promise<Run> {
  const child = spawn("sh", ["-ec", script], { cwd: root, stdio: ["ignore", "pipe", "pipe"] });
  const [output, complaints] = [collect(child.stdout), collect(child.stderr)];
  const [code] = await once(child, "close");
  return { code, output: output(), complaints: complaints() };
}

function collect(stream: NodeJS.ReadableStream): () => string {
  const chunks: Buffer[] = [];
  stream.on("data", (chunk: Buffer) => chunks.push(chunk));
  return () => Buffer.concat(chunks).toString();
}

/** Processes of machines in this directory. */
function machinesIn(directory: string): string[] {
  const lines = readdirSync("/proc").flatMap((name) => {
    try {
      return /^\d+$/.test(name) ? [readFileSync(`/proc/${name}/cmdline`, "latin1").split("\0").join(" ")] : [];
    } catch {
      return []; // ended meanwhile
    }
  });
  return lines.filter((line) => /^(qemu-system|swtpm )/.test(line) && line.includes(`${directory}/`));
}

describe("npm start -- --stay", () => {
  let machine: ChildProcess;
  let ended: Promise<unknown[]>;
  let instructions: string;
  let commands: string;
  let directory: string;

  /** The indented lines below the heading that begins like this, as they are printed. */
  const below = (heading: string): string => {
    const lines = instructions.split("\n");
    const start = lines.findIndex((line) => line.trim().startsWith(heading)) + 1;
    expect(start).toBeGreaterThan(0);
    const end = lines.findIndex((line, index) => index >= start && !line.startsWith("    "));
    return lines.slice(start, end).join("\n");
  };

  beforeAll(async () => {
    machine = spawn(process.execPath, ["vm-images/start.ts", "--stay"], {
      cwd: root,
      stdio: ["ignore", "pipe", "inherit"],
    });
    ended = once(machine, "exit");
    const { stdout } = machine;
    if (stdout === null) throw new Error("no output");
    const printed = collect(stdout);
    while (!printed().includes("the console:") && machine.exitCode === null)
      await Promise.race([once(stdout, "data"), ended]);
    instructions = printed();
    commands = below("a report, and its verdict");
    directory = /--machine (\S+)/.exec(commands)?.[1] ?? "";
  });

  afterAll(async () => {
    machine.kill("SIGTERM");
    await ended;
  });

  it("says that the machine serves, and where", () => {
    expect(instructions).toContain("The dev machine is up and serves");
    expect(machinesIn(directory).length).toBeGreaterThan(0);
  });

  it("I9: the printed commands, as they are, give a report that is verified and explained", async () => {
    const { code, output, complaints } = await typed(commands);
    expect([code, complaints]).toEqual([0, ""]);
    expect(output).toMatch(/^demo-vm: affirming \(launch serving, software-tpm, release dev-1\)$/m);
    expect(output).toMatch(/^cap serving\s/m);
    expect(output).not.toContain("<- differs");
  });

  it("I9: with another nonce the report is refused with a typed error, exit code 3 and no stack trace", async () => {
    const [report = "", verify = ""] = commands.split(/(?=^ *npm run -s ironclaw -- verify)/m);
    const { code, output, complaints } = await typed(`${report}\nnonce=$(openssl rand -hex 32)\n${verify}`);
    expect(code).toBe(3);
    expect(output).not.toMatch(/affirming|warning/);
    expect(complaints).toMatch(/ERR_EVIDENCE_REFUSED/);
    expect(complaints).not.toMatch(/^\s+at /m);
  });

  it("I9: with the default policy the verdict is contraindicated, and says for what", async () => {
    const withoutPolicy = commands.replace(/ --policy \S+/, "");
    expect(withoutPolicy).not.toBe(commands);
    const { code, output } = await typed(withoutPolicy);
    expect(code).toBe(1);
    expect(output).toMatch(/^demo-vm: contraindicated /m);
    expect(output).toMatch(/image-variant/);
    expect(output).toMatch(/assurance/);
  });

  it("I9: the printed commands start a verifier service, enrol the machine there and make it affirming on its page", async () => {
    const serve = below("a verifier service").trim();
    const service = spawn("sh", ["-ec", serve], { cwd: root, stdio: ["ignore", "pipe", "ignore"], detached: true });
    const { stdout, pid } = service;
    if (stdout === null || pid === undefined) throw new Error("no service");
    const browser = await startBrowser();
    try {
      await once(stdout, "data");
      const { code, output, complaints } = await typed(below("the machine enrolled there"));
      expect([code, complaints]).toEqual([0, ""]);
      expect(output).toMatch(/affirming/);
      const [address = "", showToken = ""] = below("the fleet, in a browser").trim().split(/\n */);
      const { page, faults } = await openTab(browser);
      await page.goto(address);
      await signIn(page, (await typed(showToken)).output.trim());
      const row = page.getByRole("row").filter({ hasText: "demo-vm" });
      await row.waitFor();
      expect(await row.textContent()).toMatch(/Affirming.*software-tpm.*dev-1/);
      expect(faults).toEqual([]);
    } finally {
      await browser.close();
      process.kill(-pid, "SIGINT"); // as a terminal does, to all that it runs
      await once(service, "exit");
    }
  });

  it("the printed socket is a root shell in the guest", async () => {
    const socket = connect(/UNIX-CONNECT:(\S+)/.exec(below("a root shell in the guest"))?.[1] ?? "");
    await once(socket, "connect");
    const shell = await DevShell.open(socket);
    try {
      expect(await shell.output("id -u; hostname")).toBe("0\nironclaw");
    } finally {
      shell.close();
    }
  });

  it("the printed console is the guest's", () => {
    const path = /the console: (\S+)/.exec(instructions)?.[1] ?? "";
    expect(path).toBe(join(directory, "console.log"));
    expect(readFileSync(path, "latin1")).toContain("agent: serving");
  });

  it("an interrupt ends it, and no machine and no software TPM is left", async () => {
    machine.kill("SIGINT");
    expect(await ended).toEqual([0, null]);
    expect(machinesIn(resolve(directory, ".."))).toEqual([]);
  });
});
