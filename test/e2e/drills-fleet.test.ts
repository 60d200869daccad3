import { rmSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { cli } from "../support/cli.ts";
import { type DrillRun, runDrill } from "../support/drill-document.ts";
import { type DrillFleet, openDrillFleet, VMS } from "../support/drill-fleet.ts";
import { startVerifier, type VerifierProcess } from "../support/verifier-process.ts";

// The drills of agent/docs/drills.md that need virtual machines: three of them, and one verifier service. In this order; the last two are of
// different machines and run beside each other.

const BOOT_SECONDS = "480";

let fleet: DrillFleet;
let verifier: VerifierProcess;

const start = (...order: Parameters<DrillFleet["start"]>) => fleet.start(...order);
const acts: DrillRun["acts"] = {
  "The verifier reads its releases again.": () => verifier.reload(),
  "vm-1 and vm-2 are restarted with image-2.": () => Promise.all([start("vm-1", "image-2"), start("vm-2", "image-2")]),
  "vm-3 is restarted with image-2.": async () => {
    await fleet.stop("vm-3");
    fleet.copy("vm-3", fleet.at("yesterday"));
    await start("vm-3", "image-2");
  },
  "vm-1 is restarted with image-1.": () => start("vm-1", "image-1"),
  "vm-1 is restarted with image-2.": () => start("vm-1", "image-2"),
  "vm-2 has another TPM and is started with image-2.": async () => {
    await fleet.stop("vm-2");
    await fleet.giveTpm("vm-2");
    await start("vm-2", "image-2");
  },
  "vm-2 gets a blank state disk and is started with image-2.": async () => {
    await fleet.stop("vm-2");
    rmSync(fleet.at("vm-2/disks/state.img"));
    await start("vm-2", "image-2");
  },
  "The host puts back what vm-3 was before the update and starts it with image-1.": async () => {
    await fleet.stop("vm-3");
    fleet.putBack("vm-3", fleet.at("yesterday"));
    await start("vm-3", "image-1");
  },
};

/** Nothing that a drill prints may be the PIN (I4). */
async function drill(heading: string): Promise<void> {
  const environment = {
    EK: "--issuer ek-issuer.pem --ca ek-ca.pem",
    UNTIL: "2099-01-01T00:00:00Z",
    SERIAL: fleet.serial,
    VERIFIER: verifier.url,
  };
  const printed = await runDrill(heading, { directory: fleet.directory, environment, acts });
  expect(printed).not.toContain(fleet.pin);
}

/** In this process: what the document takes for granted. */
async function done(...words: readonly string[]): Promise<void> {
  const { code, err } = await cli(words);
  expect({
    words,
    code,
    err: err.replaceAll(
      /^(no answer yet|loading|booted|measuring|unsealing|logging-in|checking-keys|capping|opening|serving)\n/gm,
      "",
    ),
  }).toEqual({ words, code: 0, err: "" });
}

beforeAll(async () => {
  fleet = await openDrillFleet();
  verifier = await startVerifier(fleet.verifier);
  await Promise.all(VMS.map((vm) => start(vm, "image-1")));
  const service = ["--to", fleet.verifier.url];
  const operator = join(fleet.verifier.folder, "operator.token");
  for (const vm of VMS) {
    const [machine, token] = [fleet.at(vm), fleet.at(`${vm}.token`)];
    await done("status", "--machine", machine, "--wait", BOOT_SECONDS);
    await done("verifier", "invite", vm, ...service, "--token", operator, "--out", token);
    const enrolment = ["--token", token, "--issuer", fleet.verifier.issuer];
    await done("verifier", "enrol", vm, "--machine", machine, ...service, ...enrolment);
    await done("verifier", "push", "--machine", machine, "--name", vm, ...service, "--once");
    rmSync(token);
  }
});
afterAll(async () => {
  await verifier?.stop();
  await fleet?.[Symbol.asyncDispose]();
});

describe("agent/docs/drills.md, as it stands there, with three virtual machines", () => {
  it("I2 I12: a new image is predicted, signed and rolled out machine by machine, one of them with 256 MiB, and once the epoch is raised the old one is refused", async () => {
    await drill("Update");
  });

  it("I2 I9 I11: a lost TPM costs a new seal and an enrolment, and a snapshot that is put back is seen by the verifier", async () => {
    await Promise.all([drill("A TPM is lost"), drill("A snapshot is put back")]);
  });
});
