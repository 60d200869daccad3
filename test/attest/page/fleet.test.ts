import type { Browser } from "playwright-core";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { openTab, signIn, startBrowser, type Tab } from "../../support/page-browser.ts";
import { addMachine, type MadeReport, makeReport, tamperedScene } from "../../support/page-fleet.ts";
import { type PageServer, startPageServer } from "../../support/page-server.ts";

let browser: Browser;
let good: MadeReport;
let bad: MadeReport;
let server: PageServer;
let tab: Tab;

beforeAll(async () => {
  browser = await startBrowser();
  good = await makeReport("vm-1");
  bad = await makeReport("vm-2", tamperedScene());
});
afterAll(() => browser.close());
beforeEach(async () => {
  server = await startPageServer();
  server.answers.set("machines", []);
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

async function openFleet(): Promise<void> {
  await tab.page.goto(server.url);
  await signIn(tab.page, server.token);
  await tab.page.getByRole("heading", { name: "Machines" }).waitFor();
}

function threeMachines(): void {
  addMachine(server, "vm-1", good);
  addMachine(server, "vm-2", bad, { violations: 3, flags: ["violation", "changed"] });
  addMachine(server, "vm-3", null);
}

const names = () => tab.page.locator("table.fleet tbody td.name").allInnerTexts();
const nextPoll = () => tab.page.getByRole("button", { name: "Refresh now" }).click();

describe("the list of machines", () => {
  it("says how to enrol the first machine while there is none, and fills by itself", async () => {
    await openFleet();
    await tab.page.getByRole("heading", { name: "No machine is enrolled yet" }).waitFor();
    expect(await tab.page.locator("main pre").first().textContent()).toContain("ironclaw verifier invite");
    addMachine(server, "vm-1", good);
    await nextPoll();
    await tab.page.getByRole("link", { name: "vm-1" }).waitFor();
  });

  it("I9: shows each machine's state in a word and a drawing, the worst first", async () => {
    threeMachines();
    await openFleet();
    await tab.page.getByRole("link", { name: "vm-1" }).waitFor();
    expect(await names()).toEqual(["vm-2", "vm-3", "vm-1"]);
    const row = tab.page.getByRole("row").filter({ hasText: "vm-2" });
    expect(await row.locator(".badge").textContent()).toBe("Contraindicated");
    expect(await row.locator(".badge svg").count()).toBe(1);
    expect(await row.textContent()).toMatch(
      /provider-ek[\s\S]*test release[\s\S]*serving[\s\S]*2026-06-01 00:00:00 UTC[\s\S]*3[\s\S]*violation[\s\S]*changed/,
    );
    const drawings = await tab.page
      .locator("table.fleet .icon-mark")
      .evaluateAll((all) => all.map((path) => path.getAttribute("d")));
    expect(new Set(drawings).size, "shapes differ without their colour").toBe(3);
  });

  it("sorts by every column, either way, and says so to assistive technology", async () => {
    threeMachines();
    await openFleet();
    await tab.page.getByRole("link", { name: "vm-1" }).waitFor();
    const head = tab.page.getByRole("columnheader", { name: "Machine" });
    await head.getByRole("button").click();
    expect(await names()).toEqual(["vm-1", "vm-2", "vm-3"]);
    expect(await head.getAttribute("aria-sort")).toBe("ascending");
    await head.getByRole("button").click();
    expect(await names()).toEqual(["vm-3", "vm-2", "vm-1"]);
    expect(await head.getAttribute("aria-sort")).toBe("descending");
    await tab.page.getByRole("columnheader", { name: "Violations" }).getByRole("button").click();
    expect((await names()).at(-1)).toBe("vm-2");
  });

  it("filters by text and by state, and counts", async () => {
    threeMachines();
    await openFleet();
    await tab.page.getByLabel("Filter").fill("changed");
    expect(await names()).toEqual(["vm-2"]);
    await tab.page.getByText("1 of 3 shown").waitFor();
    await tab.page.getByLabel("Filter").press("Escape");
    expect(await names()).toHaveLength(3);
    const affirming = tab.page.getByRole("button", { name: "1 Affirming" });
    await affirming.click();
    expect(await names()).toEqual(["vm-1"]);
    expect(await affirming.getAttribute("aria-pressed")).toBe("true");
    await affirming.click();
    expect(await names()).toHaveLength(3);
  });

  it("keeps focus and scroll through a refresh that moves rows, and says what changed", async () => {
    for (let index = 10; index < 60; index++) addMachine(server, `vm-${index}`, good);
    await openFleet();
    const link = tab.page.getByRole("link", { name: "vm-40" });
    await link.focus();
    const place = () => link.evaluate((element) => Math.round(element.getBoundingClientRect().top));
    const before = { top: await place(), seen: server.seen.length };
    addMachine(server, "vm-55", bad);
    addMachine(server, "vm-40", good, { lastSeen: "2026-06-01T00:01:00.000Z", flags: ["rebooted"] });
    await tab.page.evaluate(() => document.querySelector<HTMLButtonElement>("[aria-label='Refresh now']")?.click());
    await expect.poll(async () => (await names())[0]).toBe("vm-55");
    expect(server.seen.length).toBe(before.seen + 1);
    expect(await link.evaluate((element) => element === document.activeElement)).toBe(true);
    expect(await place(), "what is looked at stays where it is").toBe(before.top);
    await expect.poll(() => tab.page.locator("#announcer").textContent()).toBe("vm-55 is now contraindicated");
    addMachine(server, "vm-40", bad);
    await tab.page.evaluate(() => document.querySelector<HTMLButtonElement>("[aria-label='Refresh now']")?.click());
    await expect.poll(async () => (await names())[0]).toBe("vm-40");
    expect(await link.evaluate((element) => element === document.activeElement), "its own row moved").toBe(true);
  });

  it("fetches by itself as often as was chosen, and not while it is paused", async () => {
    threeMachines();
    await openFleet();
    await tab.page.getByRole("link", { name: "vm-1" }).waitFor();
    await tab.page.getByLabel("Every").selectOption("5 seconds");
    const before = server.seen.length;
    await expect.poll(() => server.seen.length, { timeout: 15_000 }).toBeGreaterThan(before);
    await tab.page.getByRole("button", { name: "Pause" }).click();
    await tab.page.getByText("Paused.").waitFor();
    await tab.page.getByRole("button", { name: "Resume" }).click();
    await tab.page.getByRole("button", { name: "Pause" }).waitFor();
  });
});

describe("what goes wrong", () => {
  it("I9: a service that does not answer is said, with what to do; what was known stays and is marked as old", async () => {
    threeMachines();
    await openFleet();
    await tab.page.getByRole("link", { name: "vm-1" }).waitFor();
    server.fault = { status: 503 };
    await nextPoll();
    await tab.page.getByText("The service does not answer", { exact: true }).waitFor();
    expect(await tab.page.getByRole("alert").textContent()).toContain("ironclaw verifier serve");
    expect(await names()).toHaveLength(3);
    expect(await tab.page.locator(".refresh .stale").count()).toBe(1);
    server.fault = null;
    await nextPoll();
    await tab.page.getByText("The service does not answer", { exact: true }).waitFor({ state: "detached" });
  });

  it("I9: a service that is gone altogether is said too", async () => {
    threeMachines();
    await openFleet();
    await tab.page.getByRole("link", { name: "vm-1" }).waitFor();
    await tab.context.setOffline(true);
    await nextPoll();
    await tab.page.getByText("The service does not answer", { exact: true }).waitFor();
    await tab.context.setOffline(false);
  });

  it("a token that is refused leads back to the sign-in, and is forgotten", async () => {
    await tab.page.goto(server.url);
    await signIn(tab.page, "another-token");
    await tab.page.getByText("The token was refused").waitFor();
    expect(await tab.page.getByLabel("Viewer's token").inputValue()).toBe("");
    await signIn(tab.page, server.token);
    await tab.page.getByRole("heading", { name: "Machines" }).waitFor();
  });

  it("a service that is asked too often is left alone for as long as it says", async () => {
    threeMachines();
    await openFleet();
    await tab.page.getByRole("link", { name: "vm-1" }).waitFor();
    server.fault = { status: 429, headers: { "retry-after": "30" } };
    await nextPoll();
    await tab.page.getByText("Too many requests").waitFor();
    expect(await tab.page.getByRole("alert").textContent()).toContain("Next try in 30 seconds");
  });

  it.each([
    ["not JSON", new TextEncoder().encode("<html>")],
    ["of another shape", [{ name: 7 }]],
    ["no list", { machines: [] }],
  ])("I10: an answer that is %s is told, not shown", async (_, answer) => {
    server.answers.set("machines", answer);
    await openFleet();
    await tab.page.getByText("The service answered something else").waitFor();
  });
});

describe("the viewer's token", () => {
  it("I9: goes to this service only, in a header, and is nowhere else", async () => {
    threeMachines();
    await openFleet();
    await tab.page.getByRole("link", { name: "vm-1" }).waitFor();
    const carrying = server.seen.filter(({ authorization }) => authorization !== null);
    expect(new Set(carrying.map(({ authorization }) => authorization))).toEqual(new Set(["Bearer viewer-token"]));
    expect(carrying.every(({ path }) => path.startsWith("/v1/"))).toBe(true);
    const kept = await tab.page.evaluate(() => [
      document.cookie,
      localStorage.length,
      sessionStorage.length,
      location.href,
    ]);
    expect(kept).toEqual(["", 0, 0, server.url]);
    expect(await tab.page.content()).not.toContain("viewer-token");
    await tab.page.reload();
    await tab.page.getByRole("heading", { name: "Sign in" }).waitFor();
  });

  it("outlives a reload of its tab where the viewer says so, and ends with the sign-out", async () => {
    threeMachines();
    await tab.page.goto(server.url);
    await tab.page.getByLabel("Keep it when this tab is loaded again").check();
    await signIn(tab.page, server.token);
    await tab.page.getByRole("link", { name: "vm-1" }).waitFor();
    await tab.page.reload();
    await tab.page.getByRole("link", { name: "vm-1" }).waitFor();
    await tab.page.getByRole("button", { name: "Sign out" }).click();
    await tab.page.getByRole("heading", { name: "Sign in" }).waitFor();
    expect(await tab.page.evaluate(() => sessionStorage.length)).toBe(0);
    await tab.page.reload();
    await tab.page.getByRole("heading", { name: "Sign in" }).waitFor();
  });

  it("I10: text that no token is stays in the form", async () => {
    await tab.page.goto(server.url);
    await signIn(tab.page, "two words\u202e");
    await tab.page.getByText("A token is letters").waitFor();
    expect(server.seen.some(({ path }) => path.startsWith("/v1/"))).toBe(false);
  });
});
