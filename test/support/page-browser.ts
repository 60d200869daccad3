/// <reference lib="dom" />
import { existsSync } from "node:fs";
import { type Browser, type BrowserContext, type BrowserContextOptions, chromium, type Page } from "playwright-core";

const places = [
  "/usr/bin/chromium-headless-shell",
  "/usr/bin/chromium",
  "/usr/bin/chromium-browser",
  "/usr/bin/google-chrome",
];

/** A Chromium of this machine. */
function chromiumPath(): string {
  const found = places.find((place) => existsSync(place));
  if (found === undefined) throw new Error(`no Chromium: expected one of ${places.join(", ")}`);
  return found;
}

export function startBrowser(): Promise<Browser> {
  const args = process.getuid?.() === 0 ? ["--no-sandbox"] : [];
  return chromium.launch({ executablePath: chromiumPath(), args });
}

/** A tab, and everything in it that should not have happened. */
export interface Tab {
  readonly page: Page;
  readonly context: BrowserContext;
  /** Addresses that the tab asked for, whatever came of it. */
  readonly requests: string[];
  /** Errors on the console, exceptions, and what the Content-Security-Policy stopped. */
  readonly faults: string[];
  close(): Promise<void>;
}

export async function openTab(browser: Browser, options: BrowserContextOptions = {}): Promise<Tab> {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  const requests: string[] = [];
  const faults: string[] = [];
  context.on("request", (request) => requests.push(request.url()));
  page.on("pageerror", (error) => faults.push(`exception: ${error.message}`));
  page.on("console", (message) => {
    // The browser itself writes one of these for every status of 400 and above, which the page handles.
    if (message.type() === "error" && !message.text().startsWith("Failed to load resource"))
      faults.push(message.text());
  });
  await page.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", ({ violatedDirective, blockedURI }) =>
      console.error(`policy violation: ${violatedDirective} ${blockedURI}`),
    );
  });
  page.setDefaultTimeout(10_000);
  return { page, context, requests, faults, close: () => context.close() };
}

/** Signs in as a viewer does. */
export async function signIn(page: Page, token: string): Promise<void> {
  await page.getByLabel("Viewer's token").fill(token);
  await page.getByRole("button", { name: "Sign in" }).click();
}
