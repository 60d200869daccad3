import { join } from "node:path";
import type { Browser } from "playwright-core";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { launchEvent } from "../../../attest/launch-events.ts";
import { sha256, utf8 } from "../../../policy/index.ts";
import { servingEvents } from "../../support/evidence-maker.ts";
import { openTab, signIn, startBrowser, type Tab } from "../../support/page-browser.ts";
import { tamperedScene } from "../../support/page-fleet.ts";
import { builtPage } from "../../support/page-server.ts";
import type { SoftTpm } from "../../support/soft-tpm.ts";
import { openVerifierBench, type VerifierBench, VIEWER } from "../../support/verifier-fixture.ts";

let browser: Browser;
let bench: VerifierBench;
let url: string;
let tab: Tab;

beforeAll(async () => {
  browser = await startBrowser();
});
afterAll(() => browser.close());
beforeEach(async () => {
  bench = await openVerifierBench({ dependencies: { page: await builtPage() }, policy: { name: "production" } });
  url = `http://${await bench.service.listen()}/`;
  tab = await openTab(browser);
});
afterEach(async () => {
  const { requests, faults } = tab;
  const outside = requests.filter((address) => !address.startsWith(url) && !address.startsWith("blob:"));
  await tab.close();
  await bench[Symbol.asyncDispose]();
  expect(outside, "requests that leave the origin").toEqual([]);
  expect(faults, "console and policy").toEqual([]);
});

const refresh = () => tab.page.getByRole("button", { name: "Refresh now" }).click();
const region = (name: RegExp | string) => tab.page.getByRole("region", { name });
const row = (name: string) =>
  tab.page.getByRole("row").filter({ has: tab.page.getByRole("link", { name, exact: true }) });

async function enterFleet(): Promise<void> {
  await tab.page.goto(url);
  await signIn(tab.page, VIEWER);
  await tab.page.getByRole("heading", { level: 1, name: "Machines" }).waitFor();
}

/** One machine of each kind, as the service itself comes to see them. */
async function threeMachines(): Promise<Readonly<Record<"good" | "bad" | "back", SoftTpm>>> {
  const good = await bench.enrol("signer-1");
  const bad = await bench.enrol("signer-2");
  const back = await bench.enrol("signer-3");
  await bench.attest("signer-1", good);
  await bench.attest("signer-2", bad, tamperedScene());
  await bench.attest("signer-3", back);
  await bench.attest("signer-3", back, { clock: { clock: 1n } });
  return { good, bad, back };
}

describe("the page on the real service", () => {
  it("I9: goes from an empty list over an enrolled machine to its verdict, without a reload", async () => {
    await enterFleet();
    await tab.page.getByText("No machine is enrolled yet").waitFor();
    const tpm = await bench.enrol("signer-1");
    await refresh();
    expect(await row("signer-1").locator(".badge").textContent()).toBe("Enrolled");
    await bench.attest("signer-1", tpm);
    await refresh();
    await row("signer-1").locator(".badge", { hasText: "Affirming" }).waitFor();
  });

  it("I9: three machines in different states are told apart, with flags and counts", async () => {
    await threeMachines();
    await enterFleet();
    await row("signer-1").waitFor();
    const shown = await tab.page
      .locator("table.fleet tbody tr")
      .evaluateAll((rows) =>
        rows.map((each) => [
          each.querySelector(".name")?.textContent,
          each.querySelector(".badge")?.textContent,
          [...each.querySelectorAll(".flag")].map((flag) => flag.textContent),
        ]),
      );
    expect(shown).toEqual([
      ["signer-2", "Contraindicated", ["violation"]],
      ["signer-3", "Refused", ["rolled-back"]],
      ["signer-1", "Affirming", []],
    ]);
  });

  it("I9: a machine that says nothing any more becomes silent under the viewer's eyes, and that is announced", async () => {
    await threeMachines();
    await enterFleet();
    await row("signer-1").waitFor();
    bench.later(10_000);
    await bench.service.sweep();
    await refresh();
    await row("signer-1").locator(".badge", { hasText: "Silent" }).waitFor();
    await expect.poll(() => tab.page.locator("#announcer").textContent()).toContain("signer-1 is now silent");
  });

  it("I9: a machine's page has the service's verdict, and logs that this browser replays from the report", async () => {
    await threeMachines();
    await enterFleet();
    await tab.page.getByRole("link", { name: "signer-2" }).click();
    await region("Launch").waitFor();
    const { body } = await bench.ask("GET", "/v1/machines/signer-2", { token: VIEWER });
    const codes = body.result.findings.map(({ code }: { readonly code: string }) => code);
    expect(
      await region(/^Reasons/)
        .locator(".code")
        .allInnerTexts(),
    ).toEqual(codes);
    expect(codes).toContain("event-mismatch");
    expect(await tab.page.locator(".verdict").textContent()).toContain("production");
    expect(await region("Log entries behind each register").locator("summary .agrees").count()).toBe(13);
    expect(await region("Launch").locator(".step > code").last().textContent()).toBe("violation");
    expect(await region("History").locator("tbody tr").count()).toBe(body.events.length);
    expect(await region("What this result does not prove").getByRole("listitem").count()).toBe(
      body.result.notProven.length,
    );
    expect(await region("Enrolment").locator("code.digest").first().textContent()).toBe(body.enrolment.ekName);
  });

  it("I9: a refused report shows why, an older one can still be looked at, and both can be judged again", async () => {
    await threeMachines();
    await enterFleet();
    await tab.page.getByRole("link", { name: "signer-3" }).click();
    await region(/^Why it was refused/)
      .getByText("clock-went-back")
      .waitFor();
    await tab.page.getByRole("button", { name: "Judge again" }).click();
    await tab.page.getByText("Judged again by the present policy").waitFor();
    await region(/^Why it was refused/)
      .getByText("clock-went-back")
      .waitFor();
    await region("Reports")
      .getByRole("link", { name: /^Show report/ })
      .click();
    await tab.page.getByText("not the last one").waitFor();
    await tab.page.locator(".verdict .badge", { hasText: "Affirming" }).waitFor();
    await tab.page.getByRole("button", { name: "Judge again" }).click();
    await tab.page.getByText("Judged again by the present policy").waitFor();
    expect(await tab.page.locator(".verdict .badge").textContent()).toBe("Affirming");
  });

  it("I9: a report that comes while the page is open is offered, not put under the reader's eyes", async () => {
    const { good } = await threeMachines();
    await tab.page.clock.install({ time: bench.time });
    await enterFleet();
    await tab.page.getByRole("link", { name: "signer-1" }).click();
    await region("Launch").waitFor();
    bench.later(30);
    const events = servingEvents().map((event) =>
      event.kind === "file" ? launchEvent("file", event.name, sha256(utf8("x"))) : event,
    );
    await bench.attest("signer-1", good, { events });
    await tab.page.clock.fastForward(20_000);
    await tab.page.getByText("This machine has changed since").waitFor();
    expect(await tab.page.locator(".verdict .badge").textContent()).toBe("Affirming");
    await tab.page.getByRole("button", { name: "Show", exact: true }).click();
    await tab.page.locator(".verdict .badge", { hasText: "Contraindicated" }).waitFor();
  });

  it("I9: a report that the service keeps is verified in this browser, with the machine's Names and the challenge of that time", async () => {
    const tpm = await bench.enrol("signer-1");
    await bench.attest("signer-1", tpm);
    await enterFleet();
    await tab.page.getByRole("link", { name: "signer-1" }).click();
    await tab.page.getByRole("button", { name: "Check report 1" }).click();
    await tab.page.locator(".given-file", { hasText: "signer-1-1.cmw" }).waitFor();
    await expect.poll(() => tab.page.getByLabel("Enrolment").inputValue()).toBe("signer-1");
    const trusted = ["references/first.json", "anchors.json"].map((name) => join(bench.folder, name));
    await tab.page.getByLabel("Choose files").setInputFiles(trusted);
    await tab.page.locator(".given-file").nth(2).waitFor();
    await tab.page.getByRole("button", { name: "Verify in this browser" }).click();
    await tab.page.locator(".reason", { hasText: "age of the nonce" }).waitFor();
    expect(await tab.page.locator(".reason .code").allInnerTexts()).toEqual(["freshness-not-judged"]);
  });

  it("I9: a service that stops is said, and a token that it does not know leads to the sign-in", async () => {
    await threeMachines();
    await tab.page.goto(url);
    await signIn(tab.page, "nobody-s-token");
    await tab.page.getByText("The token was refused").waitFor();
    await signIn(tab.page, VIEWER);
    await row("signer-1").waitFor();
    await bench.service.close();
    await refresh();
    await tab.page.getByText("The service does not answer", { exact: true }).waitFor();
    expect(await tab.page.locator("table.fleet tbody tr").count()).toBe(3);
  });
});
