/// <reference lib="dom" />

const svg = "http://www.w3.org/2000/svg";

/** Shapes that differ without their colour. */
const shapes = {
  check: ["M8 1a7 7 0 1 0 0 14A7 7 0 0 0 8 1z", "m4.8 8.2 2.2 2.3 4.3-4.8"],
  warn: ["M8 1.3.8 14.5h14.4z", "M8 6v4M8 12.2v.3"],
  cross: ["M5.1 1h5.8L15 5.1v5.8L10.9 15H5.1L1 10.9V5.1z", "m5.4 5.4 5.2 5.2m0-5.2-5.2 5.2"],
  refused: ["M8 1 2 3v5c0 3.6 2.5 5.8 6 7 3.5-1.2 6-3.4 6-7V3z", "m4.7 11 6.6-6.6"],
  silent: ["M8 1a7 7 0 1 0 0 14A7 7 0 0 0 8 1z", "M8 4.2v4.1l2.7 1.8"],
  new: ["M8 1a7 7 0 1 0 0 14A7 7 0 0 0 8 1z", "M8 4.8v6.4M4.8 8h6.4"],
} as const;
export type IconName = keyof typeof shapes;

/** A drawing beside a word that says the same, so it is hidden from assistive technology. */
export function icon(name: IconName): SVGElement {
  const image = document.createElementNS(svg, "svg");
  for (const [key, value] of [
    ["viewBox", "0 0 16 16"],
    ["class", "icon"],
    ["aria-hidden", "true"],
    ["focusable", "false"],
  ] as const)
    image.setAttribute(key, value);
  for (const [index, shape] of shapes[name].entries()) {
    const path = document.createElementNS(svg, "path");
    path.setAttribute("d", shape);
    path.setAttribute("class", index === 0 ? "icon-body" : "icon-mark");
    image.append(path);
  }
  return image;
}
