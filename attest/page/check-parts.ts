/// <reference lib="dom" />
import type { GivenFile, Role } from "./check-files.ts";
import { button, h, outside, replace, uniqueId } from "./dom.ts";

export interface Field {
  readonly node: HTMLElement;
  /** Shows what is wrong with the field, beside it and to assistive technology; `null` takes it away. */
  problem(text: string | null): void;
}

/** A control with its label, a hint and room for what is wrong with it. */
export function fieldWith(label: string, control: HTMLInputElement | HTMLSelectElement, hint: string): Field {
  if (control.id === "") control.id = uniqueId("field");
  const hintId = uniqueId("hint");
  const wrong = h("p", { class: "field-problem", id: uniqueId("problem") });
  control.setAttribute("aria-describedby", `${hintId} ${wrong.id}`);
  return {
    node: h(
      "div",
      { class: "field" },
      h("label", { for: control.id }, label),
      control,
      h("p", { class: "hint", id: hintId }, hint),
      wrong,
    ),
    problem(text) {
      replace(wrong, text);
      if (text === null) control.removeAttribute("aria-invalid");
      else control.setAttribute("aria-invalid", "true");
    },
  };
}

const roleWords: Readonly<Record<Role, string>> = {
  report: "report",
  nonce: "nonce",
  challenge: "challenge",
  enrolment: "enrolment",
  release: "release",
  anchors: "anchors",
  policy: "appraisal policy",
};

/** What was given so far, each with what it was taken for. */
export function fileList(files: readonly GivenFile[], remove: (file: GivenFile) => void): HTMLElement {
  if (files.length === 0) return h("p", { class: "quiet" }, "Nothing given yet.");
  return h(
    "ul",
    { class: "plain" },
    files.map((file) =>
      h(
        "li",
        { class: "given-file" },
        h("span", { class: "role" }, roleWords[file.role]),
        outside(file.name, "path"),
        h("span", { class: "quiet" }, `${file.bytes.length.toLocaleString("en")} bytes`),
        button("Remove", () => remove(file), { "aria-label": `Remove ${file.name}` }),
      ),
    ),
  );
}

/** Files dropped anywhere on `target`; the browser would otherwise open them in place of the page. */
export function acceptDrops(target: HTMLElement, take: (files: readonly File[]) => void): void {
  const over = (inside: boolean) => target.classList.toggle("drop-over", inside);
  target.addEventListener("dragover", (event) => {
    event.preventDefault();
    over(true);
  });
  target.addEventListener("dragleave", () => over(false));
  target.addEventListener("drop", (event) => {
    event.preventDefault();
    over(false);
    take([...(event.dataTransfer?.files ?? [])]);
  });
}
