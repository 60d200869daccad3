/// <reference lib="dom" />
/// <reference lib="dom.iterable" />
import type { Page } from "playwright-core";

/** Everything on the page as it is now that somebody without a mouse, an eye for colour or a large screen would stumble over. */
export async function accessibilityFaults(page: Page): Promise<readonly string[]> {
  const found = [namingFaults, structureFaults, contrastFaults, overflowFaults];
  const results: (readonly string[])[] = [];
  for (const faults of found) results.push(await page.evaluate(faults));
  return results.flat();
}

function namingFaults(): string[] {
  const faults: string[] = [];
  const say = (element: Element, what: string) => faults.push(`${what}: ${element.outerHTML.slice(0, 120)}`);
  const textOf = (ids: string | null) =>
    (ids ?? "")
      .split(/\s+/)
      .filter(Boolean)
      .map((id) => document.getElementById(id)?.textContent ?? "")
      .join("");
  for (const element of document.querySelectorAll("button, a, summary")) {
    const name = element.getAttribute("aria-label") ?? element.textContent;
    if ((name ?? "").trim() === "") say(element, "no name");
  }
  for (const element of document.querySelectorAll<HTMLInputElement>("input, select")) {
    const labels = [...(element.labels ?? [])].map((label) => label.textContent ?? "").join("");
    if ((element.getAttribute("aria-label") ?? labels).trim() === "") say(element, "no label");
  }
  for (const element of document.querySelectorAll("[role=group], nav, form, table"))
    if ((element.getAttribute("aria-label") ?? textOf(element.getAttribute("aria-labelledby"))).trim() === "")
      say(element, "no name");
  for (const element of document.querySelectorAll("section"))
    if (textOf(element.getAttribute("aria-labelledby")).trim() === "") say(element, "no name");
  for (const element of document.querySelectorAll("img")) if (!element.hasAttribute("alt")) say(element, "no alt");
  for (const attribute of ["aria-describedby", "aria-labelledby", "for"])
    for (const element of document.querySelectorAll(`[${attribute}]`))
      for (const id of (element.getAttribute(attribute) ?? "").split(/\s+/))
        if (document.getElementById(id) === null) say(element, `${attribute} names nothing`);
  return faults;
}

function structureFaults(): string[] {
  const faults: string[] = [];
  const ids = [...document.querySelectorAll("[id]")].map(({ id }) => id);
  for (const id of new Set(ids.filter((id, index) => ids.indexOf(id) !== index))) faults.push(`id twice: ${id}`);
  for (const landmark of ["header", "nav", "main"])
    if (document.querySelector(landmark) === null) faults.push(`no ${landmark}`);
  if (document.querySelectorAll("main").length !== 1) faults.push("not one main");
  if (document.querySelectorAll("h1").length !== 1) faults.push("not one h1");
  if (document.documentElement.lang === "") faults.push("no language");
  let level = 1;
  for (const heading of document.querySelectorAll("h1, h2, h3, h4")) {
    const own = Number(heading.tagName.slice(1));
    if (own > level + 1) faults.push(`heading skips a level: ${heading.textContent}`);
    level = own;
  }
  for (const table of document.querySelectorAll("table")) {
    const heads = table.querySelectorAll("th[scope=col]").length;
    for (const row of table.querySelectorAll("tbody tr"))
      if (row.children.length !== heads) faults.push(`row of ${row.children.length} cells under ${heads} heads`);
  }
  for (const svg of document.querySelectorAll("svg"))
    if (svg.getAttribute("aria-hidden") !== "true") faults.push("svg without a word");
  for (const element of document.querySelectorAll("[tabindex]"))
    if (Number(element.getAttribute("tabindex")) > 0) faults.push("tab order is forced");
  for (const element of document.querySelectorAll("*"))
    for (const { name } of element.attributes)
      if (/^on|^style$/.test(name)) faults.push(`attribute ${name} on ${element.tagName}`);
  return faults;
}

/** WCAG 2.2, 1.4.3: 4.5 to 1, and 3 to 1 for large text. */
function contrastFaults(): string[] {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  if (canvas === null) return ["no canvas"];
  const rgba = (colour: string): number[] => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const over = (top: number[], below: number[]) => {
    const alpha = (top[3] ?? 0) / 255;
    return [0, 1, 2].map((at) => (top[at] ?? 0) * alpha + (below[at] ?? 0) * (1 - alpha));
  };
  const backgroundOf = (element: Element | null): number[] => {
    if (element === null) return rgba(matchMedia("(prefers-color-scheme: dark)").matches ? "#121212" : "#ffffff");
    const own = rgba(getComputedStyle(element).backgroundColor);
    return own[3] === 255 ? own : over(own, backgroundOf(element.parentElement));
  };
  const luminance = (colour: number[]) => {
    const [r = 0, g = 0, b = 0] = colour.map((part) => {
      const share = part / 255;
      return share <= 0.03928 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const faults = new Set<string>();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (element === null || (walker.currentNode.textContent ?? "").trim() === "") continue;
    if (!element.checkVisibility() || element.closest(":disabled, noscript, option, .unseen")) continue;
    const style = getComputedStyle(element);
    const background = backgroundOf(element);
    const opacity = [element, element.parentElement].reduce(
      (all, each) => all * Number(each === null ? 1 : getComputedStyle(each).opacity),
      1,
    );
    const own = rgba(style.color);
    const colour = over([own[0] ?? 0, own[1] ?? 0, own[2] ?? 0, (own[3] ?? 0) * opacity], background);
    const [light = 0, dark = 0] = [luminance(colour), luminance(background)].sort((a, b) => b - a);
    const ratio = (light + 0.05) / (dark + 0.05);
    const size = Number.parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (ratio < (large ? 3 : 4.5))
      faults.add(`contrast ${ratio.toFixed(2)}: ${element.className} ${(element.textContent ?? "").slice(0, 40)}`);
  }
  return [...faults];
}

function overflowFaults(): string[] {
  const { scrollWidth, clientWidth } = document.documentElement;
  return scrollWidth > clientWidth ? [`${scrollWidth} pixels of content on ${clientWidth}`] : [];
}
