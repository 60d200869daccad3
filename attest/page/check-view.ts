/// <reference lib="dom" />
/// <reference lib="dom.iterable" />
import { defaultQuotePcrs, type PcrBank, pcrBanks, toHex } from "../verifier.ts";
import { type CheckField, type CheckInput, type CheckOutcome, checkReport } from "./check.ts";
import {
  type GivenFile,
  maxFileBytes,
  parseNonce,
  type Role,
  readChallenge,
  roleOf,
  writePcrList,
} from "./check-files.ts";
import { outcomeView } from "./check-outcome.ts";
import { acceptDrops, type Field, fieldWith, fileList } from "./check-parts.ts";
import { machinePath } from "./client.ts";
import { h, replace } from "./dom.ts";
import { failureView } from "./failure-view.ts";
import { fleetSchema, machineSchema } from "./shapes.ts";
import type { Context, View } from "./view.ts";

/** The drop zone: a report is verified here, in the browser, and nothing of it is sent anywhere. */
export function checkView(context: Context): View {
  const controls = makeControls(context.session.token !== null);
  const given = givenFiles(context, controls);
  const problems = h("div", {});
  const outcome = h("div", { class: "stack outcome" });
  const form = formOf(controls, given.node, problems);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    void inputOf(context, controls, given.files())
      .then((input) => checkReport(input, new Date()))
      .then((found) => showOutcome(context, controls, found, { problems, outcome }, given.files()))
      .catch((error) => replace(outcome, failureView(error)));
  });
  acceptDrops(form, given.take);
  if (context.session.token !== null) void offerMachines(context, controls.machine);
  const promise = h("strong", {}, "Nothing that you drop here is uploaded.");
  return {
    title: "Check a report",
    node: h(
      "div",
      {},
      h("h1", { tabindex: -1 }, "Check a report"),
      h(
        "p",
        { class: "lead" },
        "The report is verified in this browser, by the code that the service runs too. ",
        promise,
      ),
      form,
      outcome,
    ),
    stop: () => replace(outcome),
  };
}

interface Controls {
  readonly chooser: HTMLInputElement;
  readonly nonce: HTMLInputElement;
  readonly without: HTMLInputElement;
  readonly time: HTMLInputElement;
  readonly bank: HTMLSelectElement;
  readonly pcrs: HTMLInputElement;
  readonly machine: HTMLSelectElement;
  readonly fields: Readonly<Record<"nonce" | "time" | "bank" | "pcrs" | "enrolment", Field>>;
}

function makeControls(signedIn: boolean): Controls {
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

function formOf({ chooser, without, fields }: Controls, list: HTMLElement, problems: HTMLElement): HTMLFormElement {
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

/** The list of given files. There is one of each role but for releases: a later file takes the place of an earlier one. */
function givenFiles(context: Context, controls: Controls) {
  let files: readonly GivenFile[] = [];
  const node = h("div", { class: "given", role: "group", "aria-label": "Files given" });
  const draw = () => replace(node, fileList(files, remove));
  const remove = (file: GivenFile) => {
    files = files.filter((other) => other !== file);
    draw();
    controls.chooser.focus();
  };
  const add = async (file: File) => {
    if (file.size > maxFileBytes)
      return context.announce(`${file.name} is larger than ${maxFileBytes} bytes, and was not taken`);
    const bytes = new Uint8Array(await file.arrayBuffer());
    const role = roleOf(bytes);
    fillFrom(role, bytes, controls);
    const others = files.filter((other) =>
      role === "release" ? other.role !== role || other.name !== file.name : other.role !== role,
    );
    files = [...others, { name: file.name, role, bytes }];
    draw();
    context.announce(`${file.name} taken as ${role}`);
  };
  const take = (taken: readonly File[]) => {
    void taken.reduce((before, file) => before.then(() => add(file)), Promise.resolve());
  };
  controls.chooser.addEventListener("change", () => {
    take([...(controls.chooser.files ?? [])]);
    controls.chooser.value = "";
  });
  draw();
  return { node, take, files: () => files };
}

function fillFrom(role: Role, bytes: Uint8Array, { nonce, bank, pcrs }: Controls): void {
  if (role === "nonce") nonce.value = bytes.length === 32 ? toHex(bytes) : new TextDecoder().decode(bytes).trim();
  const challenge = role === "challenge" ? readChallenge(bytes) : null;
  if (challenge === null) return;
  nonce.value = challenge.nonce;
  if (challenge.bank !== null) bank.value = challenge.bank;
  if (challenge.pcrs !== null) pcrs.value = writePcrList(challenge.pcrs);
}

async function inputOf({ client }: Context, controls: Controls, files: readonly GivenFile[]): Promise<CheckInput> {
  const bytesOf = (role: Role) => files.find((file) => file.role === role)?.bytes ?? null;
  const { machine, nonce, without, time, bank, pcrs } = controls;
  const known = machine.value === "" ? null : await client.get(machinePath(machine.value), machineSchema);
  return {
    report: bytesOf("report"),
    nonce: nonce.value,
    withoutNonce: without.checked,
    challenged: time.value === "" || parseNonce(nonce.value) === null ? null : new Date(time.value),
    bank: bank.value as PcrBank,
    pcrs: pcrs.value,
    enrolment: known ?? bytesOf("enrolment"),
    releases: files.filter(({ role }) => role === "release"),
    anchors: bytesOf("anchors"),
    policy: bytesOf("policy"),
  };
}

function showOutcome(
  context: Context,
  { fields, chooser, nonce, pcrs, machine }: Controls,
  found: CheckOutcome,
  { problems, outcome }: { readonly problems: HTMLElement; readonly outcome: HTMLElement },
  files: readonly GivenFile[],
): void {
  const missing = new Map<CheckField, string>(found.kind === "incomplete" ? found.missing : []);
  for (const name of ["nonce", "pcrs", "enrolment"] as const) fields[name].problem(missing.get(name) ?? null);
  const general = [missing.get("report"), missing.get("anchors")].filter((text) => text !== undefined);
  replace(
    problems,
    general.map((text) => h("p", { class: "notice notice-bad", role: "alert" }, text)),
  );
  if (found.kind !== "incomplete") {
    replace(outcome, outcomeView(found, !files.some(({ role }) => role === "policy")));
    outcome.querySelector("h2")?.focus();
    return;
  }
  replace(outcome);
  context.announce("Not checked: something is missing");
  const places: Readonly<Record<CheckField, HTMLElement>> = {
    report: chooser,
    anchors: chooser,
    nonce,
    pcrs,
    enrolment: machine,
  };
  const [first] = missing.keys();
  if (first !== undefined) places[first].focus();
}

/** Machines of the service, to take an enrolment from. Without them the file still serves, so a failure is only told. */
async function offerMachines({ client, announce }: Context, select: HTMLSelectElement): Promise<void> {
  try {
    const fleet = await client.get("machines", fleetSchema);
    select.append(...fleet.map(({ name }) => h("option", { value: name }, `${name}, as the service knows it`)));
  } catch {
    announce("The machines of the service cannot be offered now");
  }
}
