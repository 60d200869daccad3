import type { Browser } from "playwright-core";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { encodeEnrolment } from "../../../attest/enrolment.ts";
import { encodeEvidence } from "../../../attest/evidence.ts";
import { encodeAnchors } from "../../../policy/index.ts";
import { createSigningKey } from "../../../seal/index.ts";
import { type Made, makeEvidence, nonce, softEccKey } from "../../support/evidence-maker.ts";
import { openTab, signIn, startBrowser, type Tab } from "../../support/page-browser.ts";
import { addMachine, makeReport } from "../../support/page-fleet.ts";
import { type PageServer, startPageServer } from "../../support/page-server.ts";
import { signedReference } from "../../support/verifier-fixture.ts";

interface GivenFile {
  readonly name: string;
  readonly mimeType: string;
  readonly buffer: Buffer;
}

let browser: Browser;
let made: Made;
let files: {
  readonly report: GivenFile;
  readonly enrolment: GivenFile;
  readonly release: GivenFile;
  readonly anchors: GivenFile;
};
let server: PageServer;
let tab: Tab;

const file = (name: string, bytes: Uint8Array): GivenFile => ({
  name,
  mimeType: "application/octet-stream",
  buffer: Buffer.from(bytes),
});

beforeAll(async () => {
  browser = await startBrowser();
  made = await makeEvidence();
  const root = (await createSigningKey()).key;
  const releaseKey = (await createSigningKey()).key;
  files = {
    report: file("report.cmw", encodeEvidence(made.evidence)),
    enrolment: file("enrolment.json", encodeEnrolment(made.enrolment)),
    release: file("release.json", await signedReference({ root, releaseKey }, "test release")),
    anchors: file(
      "anchors.json",
      encodeAnchors({ version: 1, releaseRoot: root.spkiPem, operator: releaseKey.spkiPem }),
    ),
  };
});
afterAll(() => browser.close());
beforeEach(async () => {
  server = await startPageServer();
  tab = await openTab(browser);
  await tab.page.clock.install({ time: new Date("2026-06-01T00:00:00Z") });
  await tab.page.goto(`${server.url}#/check`);
});
afterEach(async () => {
  const { requests, faults } = tab;
  const sent = server.seen.filter(({ bytes }) => bytes > 0);
  const outside = requests.filter((url) => !url.startsWith(server.url));
  await tab.close();
  await server.close();
  expect(sent, "nothing is uploaded").toEqual([]);
  expect(outside, "requests that leave the origin").toEqual([]);
  expect(faults, "console and policy").toEqual([]);
});

async function give(...given: readonly GivenFile[]): Promise<void> {
  for (const each of given) {
    await tab.page.getByLabel("Choose files").setInputFiles(each);
    await tab.page.locator(".given-file", { hasText: each.name }).waitFor();
  }
}

const all = () => [files.report, files.enrolment, files.release, files.anchors];
const nonceField = () => tab.page.getByLabel("Nonce", { exact: true });
const verify = () => tab.page.getByRole("button", { name: "Verify in this browser" }).click();
const verdict = () => tab.page.locator(".verdict .badge").textContent();

async function sayWhenMade(): Promise<void> {
  const local = await tab.page.evaluate(() => {
    const time = new Date(Date.now() - 10_000);
    return new Date(time.getTime() - 60_000 * time.getTimezoneOffset()).toISOString().slice(0, 19);
  });
  await tab.page.getByLabel("Nonce made at").fill(local);
}

describe("the drop zone", () => {
  it("I9: verifies a good report in the browser, with nonce, enrolment, release and anchors, and uploads nothing", async () => {
    await give(...all());
    expect(await tab.page.locator(".given-file .role").allInnerTexts()).toEqual([
      "report",
      "enrolment",
      "release",
      "anchors",
    ]);
    await nonceField().fill(nonce.toHex());
    await sayWhenMade();
    await verify();
    await tab.page.getByText("nothing was sent").waitFor();
    expect(await tab.page.locator(".reason").allInnerTexts()).toEqual([]);
    expect(await verdict()).toBe("Affirming");
    expect(await tab.page.getByText("Nothing that you drop here is uploaded").count()).toBe(1);
    expect(server.seen.filter(({ path }) => path.startsWith("/v1/"))).toEqual([]);
  });

  it("I9: takes files that are dropped on it", async () => {
    const data = await tab.page.evaluateHandle(
      ([report]) => {
        const transfer = new DataTransfer();
        transfer.items.add(new File([Uint8Array.from(report ?? [])], "dropped.cmw"));
        return transfer;
      },
      [[...files.report.buffer]],
    );
    await tab.page.dispatchEvent(".drop", "drop", { dataTransfer: data });
    await tab.page.locator(".given-file", { hasText: "dropped.cmw" }).waitFor();
    await tab.page.getByRole("button", { name: "Remove dropped.cmw" }).click();
    await tab.page.getByText("Nothing given yet").waitFor();
  });

  it("I9: without a nonce it judges nothing, and says that freshness cannot be judged", async () => {
    await give(...all());
    await verify();
    await tab.page.getByText("freshness cannot be judged").waitFor();
    expect(await nonceField().getAttribute("aria-invalid")).toBe("true");
    expect(await nonceField().evaluate((field) => field === document.activeElement)).toBe(true);
    expect(await tab.page.locator(".verdict").count()).toBe(0);
  });

  it("I9: whoever says that there is no nonce gets everything but freshness, and never an affirming verdict", async () => {
    await give(...all());
    await tab.page.getByLabel("I have no nonce").check();
    await verify();
    await tab.page.locator(".reason", { hasText: "freshness-not-judged" }).waitFor();
    expect(await verdict()).toBe("Warning");
  });

  it("I9: without the nonce's time the age is not judged, and that is a warning", async () => {
    await give(...all());
    await nonceField().fill(nonce.toBase64());
    await verify();
    await tab.page.locator(".reason", { hasText: "age of the nonce" }).waitFor();
    expect(await verdict()).toBe("Warning");
  });

  it("I9: another nonce refuses the report, with all reasons", async () => {
    await give(...all());
    await nonceField().fill("00".repeat(32));
    await verify();
    await tab.page.locator(".reason").first().waitFor();
    expect(await verdict()).toBe("Refused");
    expect(await tab.page.locator(".reason-head .code").allInnerTexts()).toEqual(
      expect.arrayContaining(["extra-data", "claim"]),
    );
  });

  it("I9: a changed byte in any part refuses the report", async () => {
    for (const part of ["quote", "agentLog", "firmwareLog", "claims"] as const) {
      const section = made.evidence[part].slice();
      section[section.length - 1] = (section.at(-1) ?? 0) ^ 1;
      await give(file("changed.cmw", encodeEvidence({ ...made.evidence, [part]: section })), files.enrolment);
      await nonceField().fill(nonce.toHex());
      await verify();
      await expect.poll(verdict).toBe("Refused");
    }
  });

  it("I9: another machine's key is not this machine's", async () => {
    const other = await makeEvidence({ key: await softEccKey() });
    await give(files.report, file("other.json", encodeEnrolment(other.enrolment)));
    await nonceField().fill(nonce.toHex());
    await verify();
    await tab.page.locator(".reason", { hasText: "ak-not-enrolled" }).waitFor();
  });

  it("I9: without a release there is nothing to compare with, and that is not good", async () => {
    await give(files.report, files.enrolment);
    await nonceField().fill(nonce.toHex());
    await verify();
    await tab.page.getByText("there is nothing to compare with").waitFor();
    expect(await verdict()).toBe("Contraindicated");
  });

  it("I9: a release counts only under the root that signed it", async () => {
    await give(files.report, files.enrolment, files.release);
    await nonceField().fill(nonce.toHex());
    await verify();
    await tab.page.getByText("the anchors file is needed").waitFor();
    const stranger = (await createSigningKey()).key.spkiPem;
    await give(file("stranger.json", encodeAnchors({ version: 1, releaseRoot: stranger, operator: stranger })));
    await verify();
    await tab.page.getByText("ERR_RELEASE_SIGNATURE").waitFor();
  });

  it.each([
    ["report", "garbage", "ERR_EVIDENCE_MALFORMED"],
    ["enrolment", '{"akPublic":1}', "ERR_ENROLMENT_MALFORMED"],
    ["appraisal policy", '{"minAssurance":"none"}', "ERR_APPRAISAL_POLICY"],
  ])("I10: a malformed %s is told with its typed error", async (part, text, code) => {
    await give(files.report, files.enrolment, file("malformed.bin", new TextEncoder().encode(text)));
    await nonceField().fill(nonce.toHex());
    await verify();
    const alert = tab.page.locator(".outcome [role=alert]");
    await alert.waitFor();
    expect(await alert.textContent()).toContain(`The ${part} cannot be read`);
    expect(await alert.textContent()).toContain(code);
  });

  it("I9: signed in, the enrolment can be what the service knows: its Names decide which key counts", async () => {
    addMachine(server, "vm-1", await makeReport("vm-1"));
    const detail = server.answers.get("machines/vm-1") as { enrolment: object };
    const { ekName, akName } = made.enrolment;
    server.answers.set("machines/vm-1", { ...detail, enrolment: { ...detail.enrolment, ekName, akName } });
    await tab.page.goto(server.url);
    await signIn(tab.page, server.token);
    await tab.page.getByRole("link", { name: "Check a report" }).click();
    await give(files.report, files.release, files.anchors);
    await tab.page.getByLabel("Enrolment").selectOption("vm-1");
    await nonceField().fill(nonce.toHex());
    await sayWhenMade();
    await verify();
    await expect.poll(verdict).toBe("Affirming");
    server.answers.set("machines/vm-1", {
      ...detail,
      enrolment: { ...detail.enrolment, ekName, akName: `000b${"00".repeat(32)}` },
    });
    await verify();
    await tab.page.locator(".reason", { hasText: "ak-not-enrolled" }).waitFor();
  });

  it("takes nonce, bank and registers from a challenge as the service answers it", async () => {
    const challenge = { nonce: nonce.toBase64(), bank: "sha384", pcrs: [0, 1, 2, 4], expires: "2026-06-01T00:01:00Z" };
    await give(file("challenge.json", new TextEncoder().encode(JSON.stringify(challenge))));
    expect(await nonceField().inputValue()).toBe(nonce.toBase64());
    expect(await tab.page.getByLabel("Bank").inputValue()).toBe("sha384");
    expect(await tab.page.getByLabel("Registers asked for").inputValue()).toBe("0-2, 4");
  });
});
