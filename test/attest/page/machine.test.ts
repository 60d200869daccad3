import type { Browser } from "playwright-core";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { launchEvent } from "../../../attest/launch-events.ts";
import { referenceEvents, servingEvents } from "../../support/evidence-maker.ts";
import { openTab, signIn, startBrowser, type Tab } from "../../support/page-browser.ts";
import { addMachine, type MadeReport, makeReport, tamperedScene, wideScene } from "../../support/page-fleet.ts";
import { type PageServer, startPageServer } from "../../support/page-server.ts";

let browser: Browser;
let good: MadeReport;
let bad: MadeReport;
let refused: MadeReport;
let server: PageServer;
let tab: Tab;

beforeAll(async () => {
  browser = await startBrowser();
  good = await makeReport("vm-1");
  bad = await makeReport("vm-2", tamperedScene());
  refused = await makeReport("vm-4", { attest: { extraData: new Uint8Array(32) } });
});
afterAll(() => browser.close());
beforeEach(async () => {
  server = await startPageServer();
  tab = await openTab(browser);
});
afterEach(async () => {
  const { requests, faults } = tab;
  const outside = requests.filter((url) => !url.startsWith(server.url) && !url.startsWith("blob:"));
  await tab.close();
  await server.close();
  expect(outside, "requests that leave the origin").toEqual([]);
  expect(faults, "console and policy").toEqual([]);
});

async function openMachine(name: string): Promise<void> {
  await tab.page.goto(`${server.url}#/machines/${encodeURIComponent(name)}`);
  await signIn(tab.page, server.token);
  await tab.page.getByRole("heading", { level: 1 }).waitFor();
}

const region = (name: RegExp | string) => tab.page.getByRole("region", { name });

describe("a machine's page", () => {
  it("I9: shows an affirming verdict with what it rests on and what it does not prove", async () => {
    addMachine(server, "vm-1", good);
    await openMachine("vm-1");
    await tab.page.locator(".verdict .badge", { hasText: "Affirming" }).waitFor();
    expect(await tab.page.locator(".verdict").textContent()).toMatch(/provider-ek[\s\S]*test release[\s\S]*production/);
    expect(await region("Reasons").textContent()).toContain("None");
    expect(await region("What this result does not prove").getByRole("listitem").count()).toBe(
      good.result?.notProven.length,
    );
    expect(await region("Continuity").textContent()).toContain("123456 ms");
    expect(await region("Trustworthiness vector").textContent()).toContain("instance-identity");
    expect(await region("History").textContent()).toContain("Affirming");
  });

  it("I9: lists every reason with code, item, expected and got, and marks the digits that differ", async () => {
    addMachine(server, "vm-2", bad);
    await openMachine("vm-2");
    const reasons = region(/^Reasons/);
    await reasons.getByText("event-mismatch").waitFor();
    const shown = await reasons.locator(".reason").allInnerTexts();
    for (const { code, item } of bad.result?.findings ?? [])
      expect(
        shown.some((text) => text.includes(code) && text.includes(item)),
        code,
      ).toBe(true);
    expect(shown).toHaveLength(bad.result?.findings.length ?? 0);
    const mismatch = bad.result?.findings.find(({ code }) => code === "event-mismatch");
    const digests = await reasons.locator(".reason").first().locator("code.digest").allTextContents();
    expect(digests).toEqual([mismatch?.expected, mismatch?.got]);
    const marked = await reasons
      .locator(".reason")
      .first()
      .locator("code.digest")
      .nth(1)
      .locator("mark")
      .allTextContents();
    const differing = [...(mismatch?.got ?? "")].filter((digit, index) => digit !== mismatch?.expected[index]);
    expect(marked.join("")).toBe(differing.join(""));
  });

  it("I9: shows the launch step by step, with the one that differs and what came after the cap", async () => {
    addMachine(server, "vm-2", bad);
    await openMachine("vm-2");
    const steps = region("Launch").locator(".step");
    await steps.first().waitFor();
    const labels = await steps.locator("> code").allInnerTexts();
    expect(labels).toEqual([
      "config",
      "anchors",
      "policy",
      "profile",
      "library",
      "closure",
      "file",
      "environment",
      "devices",
      "token",
      "key",
      "cap",
      "violation",
    ]);
    expect(await steps.nth(4).textContent()).toContain("differs from the release");
    expect(await steps.nth(12).textContent()).toContain("Denied call of the library");
  });

  it("a launch that did not come far shows the steps that are not in its log", async () => {
    const short = await makeReport("vm-5", {
      events: referenceEvents().slice(0, 3),
      launch: "measuring",
      asserted: { tokens: [], keys: [], shims: [] },
    });
    addMachine(server, "vm-5", short);
    await openMachine("vm-5");
    await region("Launch").locator(".step-missing").first().waitFor();
    expect(await region("Launch").locator(".step-missing").allInnerTexts()).toContainEqual(
      expect.stringContaining("PCR 13 capped"),
    );
  });

  it("I9: computes from the report itself what is behind each register", async () => {
    addMachine(server, "vm-1", good);
    await openMachine("vm-1");
    const logs = region("Log entries behind each register");
    await logs.locator("summary").first().waitFor();
    expect(await logs.locator("summary").count()).toBe(13);
    expect(await logs.getByText("explained", { exact: false }).count()).toBe(13);
    const agent = logs.locator("details", { hasText: "PCR 13" });
    await agent.locator("summary").click();
    expect(await agent.locator("tbody tr").count()).toBe(13);
    expect(await agent.locator("tbody").textContent()).toContain("/usr/lib/libsofthsm2.so");
    const loader = logs.locator("details", { hasText: "PCR 4" }).first();
    await loader.locator("summary").click();
    expect(await loader.locator("tbody").textContent()).toContain("UEFI boot application");
  });

  it("shows tokens, keys with their attributes, and the sandbox", async () => {
    addMachine(server, "vm-1", good);
    await openMachine("vm-1");
    expect(await region("Tokens and keys").textContent()).toMatch(
      /SoftHSM v2[\s\S]*release[\s\S]*sensitive yes[\s\S]*extractable no/,
    );
    const sandbox = await region("Sandbox of the library").textContent();
    expect(sandbox).toMatch(/991[\s\S]*io_uring_setup[\s\S]*denied \(EPERM\)/);
    expect(sandbox).toContain("No incident was recorded.");
  });

  it("I5: shows what a library reaches beyond its own files before all other reasons, every process of it, and every incident", async () => {
    const wide = await makeReport("vm-1", wideScene());
    addMachine(server, "vm-1", wide);
    await openMachine("vm-1");
    const reasons = region(/^Reasons/).locator(".reason");
    await reasons.first().waitFor();
    expect(await reasons.first().textContent()).toMatch(/profile-exception.*192\.0\.2\.7:1500/);
    const sandbox = (await region("Sandbox of the library").textContent()) ?? "";
    for (const text of [
      ...[
        "192.0.2.7:1500 through the relay",
        "landlock-tcp",
        "runs no longer",
        "nobody looked at it \u2717",
        "0 (root) \u2717",
      ],
      ...["3, 1 of them inherited \u2717", "clone3(0xffffffffffffffff, ", "ptrace(0x0, 0x1, 0x2, 0x3, 0x4, 0x5)"],
      ...["device added", "usb:08e6:4433", "process 1 took over"],
    ])
      expect(sandbox).toContain(text);
    expect(await region("Tokens and keys").locator(".differs").allTextContents()).toEqual([
      ...["neverExtractable no \u2717", "alwaysSensitive not answered", "local not answered"],
    ]);
  });

  it("I9: a refused report shows all reasons, and calls nothing in it true", async () => {
    addMachine(server, "vm-4", refused);
    await openMachine("vm-4");
    await tab.page.locator(".verdict .badge", { hasText: "Refused" }).waitFor();
    expect(await region(/^Why it was refused/).textContent()).toContain("extra-data");
    await tab.page.getByText("none of it is known to be true").waitFor();
    expect(await tab.page.locator(".step-good").count()).toBe(0);
  });

  it("I10: a report that is garbage is told with its typed error", async () => {
    addMachine(server, "vm-4", { ...refused, bytes: new TextEncoder().encode("no report at all") });
    await openMachine("vm-4");
    await tab.page.getByText("It cannot be read").waitFor();
    expect(await region("The report").textContent()).toContain("ERR_EVIDENCE_MALFORMED");
  });

  it("saves a report byte for byte, and judges it again", async () => {
    addMachine(server, "vm-1", good);
    await openMachine("vm-1");
    const [download] = await Promise.all([
      tab.page.waitForEvent("download"),
      tab.page.getByRole("button", { name: "Save report 1" }).click(),
    ]);
    expect(download.suggestedFilename()).toBe("vm-1-1.cmw");
    const chunks: Buffer[] = [];
    for await (const chunk of await download.createReadStream()) chunks.push(chunk as Buffer);
    expect(Buffer.concat(chunks).equals(good.bytes)).toBe(true);
    server.answers.set("machines/vm-1/reports/1/appraisal", bad.result);
    await tab.page.getByRole("button", { name: "Judge again" }).click();
    await tab.page.getByText("Judged again by the present policy").waitFor();
    await tab.page.locator(".verdict .badge", { hasText: "Contraindicated" }).waitFor();
    expect(server.seen.filter(({ method }) => method === "POST").map(({ path }) => path)).toEqual([
      "/v1/machines/vm-1/reports/1/appraisal",
    ]);
  });

  it("a machine that is not there says so, and so does an address that names nothing", async () => {
    await openMachine("vm-9");
    await tab.page.getByText("Not found").first().waitFor();
    await tab.page.goto(`${server.url}#/machines/%E0%A4%A`);
    await tab.page.getByText("This address names nothing here").waitFor();
  });
});

describe("a report of a machine that says far too much", () => {
  it("I10: thousands of entries are shown in pieces, all of them can be seen, and the tab stays usable", async () => {
    const calls = Array.from({ length: 3000 }, (_, index) =>
      launchEvent("anchor", `call-${index}`, new Uint8Array(32)),
    );
    addMachine(server, "vm-1", await makeReport("vm-1", { events: [...servingEvents(), ...calls] }));
    await openMachine("vm-1");
    const events = region("Measured by the agent");
    await events.waitFor();
    expect(await events.locator("tbody tr").count()).toBe(200);
    expect(await tab.page.evaluate(() => document.querySelectorAll("*").length)).toBeLessThan(20_000);
    await events.getByRole("button", { name: "Show 200 more of 3013" }).click();
    expect(await events.locator("tbody tr").count()).toBe(400);
    expect(await tab.page.evaluate(() => document.activeElement?.textContent)).toContain("call-187");
  });
});

describe("text of a hostile machine", () => {
  const hostile = '<img src=x onerror="alert(1)">\u202egnp.exe\u0007\u200b\ud800<script>alert(2)</script>';

  it("I10: names and reasons are shown as text, and what would hide or turn them as numbers", async () => {
    const findings = [{ tier: "contraindicated", code: hostile, item: hostile, expected: hostile, got: hostile }];
    const result = {
      ...bad.result,
      findings,
      release: hostile,
      policy: { name: hostile, sha256: "00".repeat(32) },
      notProven: [{ code: "x", text: hostile }],
      events: [{ kind: hostile, name: hostile, expected: null, got: "00".repeat(32), agrees: true }],
    };
    addMachine(
      server,
      hostile,
      { ...bad, result: result as unknown as MadeReport["result"] },
      { flags: [hostile], launch: hostile, assurance: hostile, release: hostile, state: hostile },
    );
    await tab.page.goto(server.url);
    await signIn(tab.page, server.token);
    const link = tab.page.locator("table.fleet td.name a");
    await link.waitFor();
    expect(await link.textContent()).toContain(
      '<img src=x onerror="alert(1)">\u27e8U+202E\u27e9gnp.exe\u27e8U+0007\u27e9\u27e8U+200B\u27e9',
    );
    await link.click();
    await tab.page.locator(".reason").waitFor();
    const text = await tab.page.locator("body").textContent();
    expect(text).not.toMatch(/[\u202a-\u202e\u2066-\u2069\u200b-\u200f]/);
    expect(text).toContain("<script>alert(2)</script>");
    const made = await tab.page.evaluate(() => [
      document.querySelectorAll("main img, main script, body > script, iframe, object").length,
      document.title,
    ]);
    expect(made[0]).toBe(0);
  });

  it("I10: a log of a hostile machine does not become markup, and a long name does not widen the page", async () => {
    const name = `/${"x".repeat(3000)}<b>\u202e`;
    const events = servingEvents().map((event) =>
      event.kind === "file" ? launchEvent("file", name, event.sha256) : event,
    );
    addMachine(server, "vm-1", await makeReport("vm-1", { events }));
    await tab.page.setViewportSize({ width: 360, height: 700 });
    await openMachine("vm-1");
    await region("Launch").locator(".step").first().waitFor();
    expect(await tab.page.evaluate(() => document.documentElement.scrollWidth)).toBe(360);
    expect(await tab.page.locator("main b").count()).toBe(0);
  });
});
