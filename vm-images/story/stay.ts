import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { encodeAppraisalPolicy, encodeEnrolment } from "../../attest/index.ts";
import type { Progress } from "./progress.ts";
import { requireServing, startMachine } from "./running.ts";
import { prepare } from "./story.ts";
import { DEMO_APPRAISAL, endorse, enrol } from "./verifier.ts";

/** Boot a `dev` machine, write down what a person needs to ask it for a report, and keep it up until interrupted. */
export async function stay(progress: Progress, print: (text: string) => void): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), "ironclaw-dev-"));
  try {
    await keepUp(directory, progress, print);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

async function keepUp(directory: string, progress: Progress, print: (text: string) => void): Promise<void> {
  const { image, tpm, machine } = await prepare(progress, directory, "dev");
  const vmDirectory = join(directory, "vm");
  await using running = await startMachine({
    image,
    contents: machine.contents,
    tpmDirectory: tpm.directory,
    directory: vmDirectory,
  });
  requireServing(await progress.step("boot, measure, unseal, log in", () => running.launched()));
  const enrolment = await enrol(machine.name, await endorse(tpm), running.control);
  const write = (name: string, bytes: Uint8Array) => writeFile(join(directory, name), bytes);
  await write("release.json", machine.release);
  await write("anchors.json", machine.anchors);
  await write("enrolment.json", encodeEnrolment(enrolment));
  await write("appraisal.json", encodeAppraisalPolicy(DEMO_APPRAISAL.document));
  running.control.close(); // a port takes one connection at a time: leave it to the person
  print(instructions(directory, vmDirectory));
  await Promise.race([running.vm.exited, interrupted()]);
}

function instructions(directory: string, vmDirectory: string): string {
  return [
    "",
    `The dev machine is up and serves. Ctrl-C ends it. From another terminal, in this folder:`,
    "",
    "  a root shell in the guest (socat, or any program that talks to a Unix socket):",
    `    socat - UNIX-CONNECT:${join(vmDirectory, "ironclaw.shell.sock")}`,
    "",
    "  a report, and its verdict:",
    "    nonce=$(openssl rand -hex 32); challenged=$(date -u +%Y-%m-%dT%H:%M:%SZ)",
    `    npm run -s ironclaw -- report --machine ${vmDirectory} --nonce $nonce --out ${join(directory, "report.cbor")}`,
    `    npm run -s ironclaw -- verify ${join(directory, "report.cbor")} --nonce $nonce --reference ${join(directory, "release.json")} \\`,
    `      --anchors ${join(directory, "anchors.json")} --enrolment ${join(directory, "enrolment.json")} --policy ${join(directory, "appraisal.json")} \\`,
    `      --challenged $challenged --history ${join(directory, "history.json")} --explain`,
    "",
    `  the console: ${join(vmDirectory, "console.log")}`,
    "",
  ].join("\n");
}

function interrupted(): Promise<void> {
  return new Promise((resolve) => {
    for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => resolve());
  });
}
