import { writeFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type DrillDesk, openDrillDesk } from "../support/drill-desk.ts";
import { type DrillRun, runDrill } from "../support/drill-document.ts";
import { LAUNCH_PIN } from "../support/launch-token.ts";

// The drills of agent/docs/drills.md that need no virtual machine, on one real machine below a software TPM, with a network HSM. In this order:
// each begins where the one before it ended.

const NEW_PIN = "4712-second-quillwort";

let desk: DrillDesk;
const environment: Record<string, string> = {
  EK: "--issuer ek-issuer.pem --ca ek-ca.pem",
  UNTIL: "2099-01-01T00:00:00Z",
};

beforeAll(async () => {
  desk = await openDrillDesk();
  environment["SERIAL"] = desk.hsm.token.serial;
  environment["VERIFIER"] = desk.verifier.url;
  writeFileSync(desk.at("pin"), LAUNCH_PIN, { mode: 0o600 });
  await desk.machine.start(desk.at("image-1"));
});
afterAll(() => desk?.[Symbol.asyncDispose]());

const acts: DrillRun["acts"] = {
  "vm-1 is restarted with image-1.": () => desk.machine.start(desk.at("image-1")),
  "vm-1 is restarted with image-2.": () => desk.machine.start(desk.at("image-2")),
  "The PIN is changed at the HSM, and the new one is in pin.": async () => {
    desk.hsm.changePin(LAUNCH_PIN, NEW_PIN);
    writeFileSync(desk.at("pin"), NEW_PIN);
  },
  "The HSM is replaced by one of serial number $NEW with the same keys, and its PIN is in pin.": async () => {
    environment["NEW"] = await desk.hsm.replace();
  },
};

/** Nothing that a drill prints may be a PIN (I4). */
async function drill(heading: string): Promise<string> {
  const printed = await runDrill(heading, { directory: desk.directory, environment, acts });
  for (const pin of [LAUNCH_PIN, NEW_PIN, "4711-mistyped"]) expect(printed).not.toContain(pin);
  return printed;
}

describe("agent/docs/drills.md, as it stands there", () => {
  it("I2: an update is taken back by a restart until the epoch was raised, and after that by signing the old content again", async () => {
    await drill("Going back");
  });

  it("I11: a new PIN is used from the next boot on, and a mistyped one is tried once", async () => {
    await drill("A new PIN");
  });

  it("I2 I11: another HSM needs a release and a seal, and nothing but these", async () => {
    await drill("The HSM is replaced");
  });
});
