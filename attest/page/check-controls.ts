/// <reference lib="dom" />
import { defaultQuotePcrs, pcrBanks, toHex } from "../verifier.ts";
import { parsePcrList, type Role, readChallenge, writePcrList } from "./check-files.ts";
import type { Handover } from "./check-handover.ts";
import { type Field, fieldWith } from "./check-parts.ts";
import { h } from "./dom.ts";

/** What the viewer fills in beside the files. */
export interface Controls {
  readonly chooser: HTMLInputElement;
  readonly nonce: HTMLInputElement;
  readonly without: HTMLInputElement;
  readonly time: HTMLInputElement;
  readonly bank: HTMLSelectElement;
  readonly pcrs: HTMLInputElement;
  readonly machine: HTMLSelectElement;
  readonly fields: Readonly<Record<"nonce" | "time" | "bank" | "pcrs" | "enrolment", Field>>;
}

export function makeControls(signedIn: boolean): Controls {
  const text = { type: "text", autocomplete: "off", spellcheck: "false" };
  const nonce = h("input", { ...text, class: "mono" });
  const time = h("input", { type: "datetime-local", step: 1 });
  const bank = h(
    "select",
    {},
    pcrBanks.map((name) => h("option", { value: name }, name)),
  );
  const pcrs = h("input", { ...text, value: writePcrList(defaultQuotePcrs) });
  const machine = h("select", {}, h("option", { value: "" }, "the file that was given"));
  const where = signedIn
    ? "A file, or what the service knows of a machine."
    : "A file; once signed in, also what the service knows of a machine.";
  return {
    ...{ nonce, time, bank, pcrs, machine },
    chooser: h("input", { type: "file", multiple: true, id: "chooser", "aria-describedby": "chooser-hint" }),
    without: h("input", { type: "checkbox", id: "without-nonce" }),
    fields: {
      nonce: fieldWith("Nonce", nonce, "What the machine was asked with: 64 hexadecimal digits, or base64."),
      time: fieldWith("Nonce made at", time, "In your local time. Without it, age is not judged."),
      bank: fieldWith("Bank", bank, ""),
      pcrs: fieldWith("Registers asked for", pcrs, "The challenge names them, and their bank."),
      enrolment: fieldWith("Enrolment", machine, where),
    },
  };
}

export function formOf(
  { chooser, without, fields }: Controls,
  list: HTMLElement,
  problems: HTMLElement,
): HTMLFormElement {
  return h(
    "form",
    { class: "card check-form", novalidate: true, "aria-label": "Check a report" },
    h(
      "div",
      { class: "drop" },
      h("p", { class: "drop-title" }, "Drop the report here, with all that belongs to it"),
      h(
        "p",
        { id: "chooser-hint", class: "quiet" },
        "Report, enrolment, releases with their anchors, appraisal policy, nonce or challenge. Each file is recognised by what is in it, not by its name.",
      ),
      h("label", { class: "file-label", for: "chooser" }, "Choose files"),
      chooser,
      list,
    ),
    h(
      "div",
      { class: "fields" },
      h(
        "div",
        { class: "field-group" },
        fields.nonce.node,
        h(
          "div",
          { class: "field-check" },
          without,
          h("label", { for: without.id }, "I have no nonce: check everything but freshness"),
        ),
      ),
      fields.enrolment.node,
      fields.time.node,
      h("div", { class: "field-pair" }, fields.pcrs.node, fields.bank.node),
    ),
    problems,
    h("div", { class: "form-end" }, h("button", { type: "submit", class: "primary" }, "Verify in this browser")),
  );
}

/** A report of the service, with the challenge that it answers and the machine that it is of. */
export function takeOver(
  { name, report }: Handover,
  { nonce, bank, pcrs }: Controls,
  add: (name: string, role: Role, bytes: Uint8Array) => void,
): void {
  add(name, "report", report.bytes);
  nonce.value = report.nonce ?? "";
  if (pcrBanks.some((known) => known === report.bank)) bank.value = report.bank ?? "";
  const asked = report.pcrs === null ? null : parsePcrList(report.pcrs);
  if (asked !== null) pcrs.value = writePcrList(asked);
}

export function fillFrom(role: Role, bytes: Uint8Array, { nonce, bank, pcrs }: Controls): void {
  if (role === "nonce") nonce.value = bytes.length === 32 ? toHex(bytes) : new TextDecoder().decode(bytes).trim();
  const challenge = role === "challenge" ? readChallenge(bytes) : null;
  if (challenge === null) return;
  nonce.value = challenge.nonce;
  if (challenge.bank !== null) bank.value = challenge.bank;
  if (challenge.pcrs !== null) pcrs.value = writePcrList(challenge.pcrs);
}
