import type { Browser, BrowserContextOptions } from "playwright-core";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { accessibilityFaults } from "../../support/page-accessibility.ts";
import { openTab, signIn, startBrowser, type Tab } from "../../support/page-browser.ts";
import { addMachine, makeReport, tamperedScene, wideScene } from "../../support/page-fleet.ts";
import { type PageServer, startPageServer } from "../../support/page-server.ts";

let browser: Browser;
let server: PageServer;
let tab: Tab;

beforeAll(async () => {
  browser = await startBrowser();
  server = await startPageServer();
  const good = await makeReport("vm-1");
  const bad = await makeReport("vm-2", tamperedScene());
  const refused = await makeReport("vm-3", { attest: { extraData: new Uint8Array(32) } });
  const doubted = await makeReport("vm-4", { asserted: { keys: [] } });
  addMachine(server, "vm-1", good);
  addMachine(server, "vm-2", bad, { violations: 3, flags: ["violation", "changed"] });
  addMachine(server, "vm-3", refused, { flags: ["rolled-back"] });
  addMachine(server, "vm-4", doubted, { state: "warning" });
  addMachine(server, "vm-5", null);
  addMachine(server, "vm-6", good, { state: "silent" });
  addMachine(server, "vm-7", await makeReport("vm-7", wideScene()), { violations: 14, flags: ["violation"] });
});
afterAll(async () => {
  await server.close();
  await browser.close();
});
afterEach(async () => {
  const { faults } = tab;
  await tab.close();
  expect(faults).toEqual([]);
});

/** Every view in turn, each opened as far as it goes. */
const views = {
  "the sign-in": async () => void (await tab.page.goto(server.url)),
  "the sign-in after a refusal": async () => {
    await tab.page.goto(server.url);
    await signIn(tab.page, "wrong");
    await tab.page.getByText("The token was refused").waitFor();
  },
  "the list": async () => {
    await tab.page.goto(server.url);
    await signIn(tab.page, server.token);
    await tab.page.getByRole("link", { name: "vm-1" }).waitFor();
  },
  ...Object.fromEntries(
    ["vm-1", "vm-2", "vm-3", "vm-5", "vm-7"].map((name) => [`the page of ${name}`, () => openMachine(name)]),
  ),
  "the drop zone with everything missing": async () => {
    await tab.page.goto(`${server.url}#/check`);
    await tab.page.getByRole("button", { name: "Verify in this browser" }).click();
    await tab.page.getByText("freshness cannot be judged").waitFor();
  },
} satisfies Readonly<Record<string, () => Promise<void>>>;

async function openMachine(name: string): Promise<void> {
  await tab.page.goto(`${server.url}#/machines/${name}`);
  await signIn(tab.page, server.token);
  await tab.page.getByRole("region", { name: "Enrolment" }).waitFor();
  for (const summary of await tab.page.locator("summary").all()) await summary.click();
}

const screens: readonly (readonly [string, BrowserContextOptions])[] = [
  ["on a wide screen", {}],
  ["on a screen of 360 pixels", { viewport: { width: 360, height: 720 } }],
  ["in the dark", { colorScheme: "dark" }],
  ["between wide and narrow", { viewport: { width: 920, height: 720 } }],
];

describe.each(screens)("%s", (_, options) => {
  beforeEach(async () => {
    tab = await openTab(browser, options);
  });

  it.each(Object.entries(views))("%s has names, structure, contrast and no sideways scrolling", async (_name, open) => {
    await open();
    expect(await accessibilityFaults(tab.page)).toEqual([]);
  });
});

describe("with the keyboard alone", () => {
  beforeEach(async () => {
    tab = await openTab(browser);
  });

  const focused = () =>
    tab.page.evaluate(() => {
      const element = document.activeElement;
      return (element?.getAttribute("aria-label") ?? element?.textContent ?? "").trim() || (element?.id ?? "");
    });
  const press = (key: string) => tab.page.keyboard.press(key);
  /** Tabs until something of that name has the focus; every stop on the way shows that it has it. */
  const tabTo = async (name: string | RegExp) => {
    for (let presses = 0; presses < 150; presses++) {
      await press("Tab");
      const outline = await tab.page.evaluate(() => {
        const element = document.activeElement;
        return element === null || element === document.body ? "body" : getComputedStyle(element).outlineStyle;
      });
      expect(outline, await focused()).not.toBe("none");
      if (typeof name === "string" ? (await focused()) === name : name.test(await focused())) return;
    }
    throw new Error(`the keyboard does not come to ${name}`);
  };

  it("a viewer signs in, filters, opens a machine, reads it, judges again and comes back", async () => {
    await tab.page.goto(server.url);
    await press("Tab");
    expect(await focused()).toBe("Skip to the content");
    await press("Enter");
    expect(await tab.page.evaluate(() => document.activeElement?.id)).toBe("main");
    await tab.page.getByLabel("Viewer's token").focus();
    await tab.page.keyboard.type(server.token);
    await press("Enter");
    await tab.page.getByRole("link", { name: "vm-1" }).waitFor();
    expect(await focused()).toBe("Machines");

    await tabTo("filter");
    await tab.page.keyboard.type("vm-2");
    await tab.page.getByText("1 of 7 shown").waitFor();
    await tabTo("vm-2");
    await press("Enter");
    await tab.page.getByRole("region", { name: "Launch" }).waitFor();
    expect(await focused()).toBe("vm-2");
    expect(await tab.page.title()).toBe("vm-2 \u2013 IronClaw verifier");

    await tabTo("Log entries behind each register");
    await press("Enter");
    expect(await focused()).toBe("Log entries behind each register");
    await tabTo(/^PCR 0/);
    await press("Enter");
    await tab.page.getByRole("table", { name: "Log entries of PCR 0" }).waitFor();

    await tab.page.locator("h1").focus();
    await tabTo("Judge again");
    await press("Enter");
    await tab.page.getByText("Judged again by the present policy").waitFor();

    await tab.page.goBack();
    await tab.page.getByRole("link", { name: "vm-2" }).waitFor();
    expect(await tab.page.getByLabel("Filter").inputValue(), "the filter is still there").toBe("vm-2");
    await tab.page.getByLabel("Filter").focus();
    await press("Escape");
    await tab.page.getByRole("link", { name: "vm-1" }).waitFor();
    await tab.page.locator("body").press("Shift+Tab");
  });

  it("a report is checked, and the focus goes to what is missing, then to the result", async () => {
    await tab.page.goto(`${server.url}#/check`);
    await tab.page.getByLabel("Nonce", { exact: true }).focus();
    await press("Enter");
    await tab.page.getByText("A report is needed").waitFor();
    expect(await tab.page.evaluate(() => document.activeElement?.id)).toBe("chooser");
  });
});

describe("what has the focus", () => {
  it.each(screens)("%s is not hidden behind the bar", async (_, options) => {
    tab = await openTab(browser, options);
    await views["the drop zone with everything missing"]();
    await tab.page.evaluate(() => window.scrollTo(0, document.documentElement.scrollHeight));
    await tab.page.getByRole("button", { name: "Verify in this browser" }).click();
    const seen = await tab.page.evaluate(() => {
      const element = document.activeElement;
      if (element === null) return null;
      const { left, top, width, height } = element.getBoundingClientRect();
      return document.elementFromPoint(left + width / 2, top + height / 2) === element;
    });
    expect(seen).toBe(true);
  });
});

describe("other ways to look at it", () => {
  it("printed, it has the verdict and the reasons, and none of the controls", async () => {
    tab = await openTab(browser);
    await openMachine("vm-2");
    await tab.page.emulateMedia({ media: "print" });
    expect(await tab.page.locator(".bar").isVisible()).toBe(false);
    expect(await tab.page.getByRole("button", { name: "Judge again" }).isVisible()).toBe(false);
    expect(await tab.page.locator(".verdict").isVisible()).toBe(true);
    expect(await tab.page.locator(".reason").first().isVisible()).toBe(true);
  });

  it("nothing moves by itself for those who do not want it", async () => {
    tab = await openTab(browser, { reducedMotion: "reduce" });
    await openMachine("vm-2");
    const moving = await tab.page.evaluate(() => document.getAnimations().length);
    expect(moving).toBe(0);
  });

  it("the dark scheme is dark", async () => {
    tab = await openTab(browser, { colorScheme: "dark" });
    await tab.page.goto(server.url);
    const background = await tab.page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    expect(background).toBe("rgb(17, 21, 28)");
  });
});
