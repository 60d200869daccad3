/// <reference lib="dom" />
/// <reference lib="dom.iterable" />
import type { PcrBank } from "../verifier.ts";
import { type CheckField, type CheckInput, type CheckOutcome, checkReport } from "./check.ts";
import { type Controls, fillFrom, formOf, makeControls, takeOver } from "./check-controls.ts";
import { type GivenFile, maxFileBytes, parseNonce, type Role, roleOf } from "./check-files.ts";
import { takeHandover } from "./check-handover.ts";
import { outcomeView } from "./check-outcome.ts";
import { acceptDrops, fileList } from "./check-parts.ts";
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
  const handed = takeHandover();
  if (handed !== null) takeOver(handed, controls, given.add);
  if (context.session.token !== null) void offerMachines(context, controls.machine, handed?.machine ?? null);
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
  const add = (name: string, role: Role, bytes: Uint8Array) => {
    const others = files.filter((other) =>
      role === "release" ? other.role !== role || other.name !== name : other.role !== role,
    );
    files = [...others, { name, role, bytes }];
    draw();
    context.announce(`${name} taken as ${role}`);
  };
  const read = async (file: File) => {
    if (file.size > maxFileBytes)
      return context.announce(`${file.name} is larger than ${maxFileBytes} bytes, and was not taken`);
    const bytes = new Uint8Array(await file.arrayBuffer());
    const role = roleOf(bytes);
    fillFrom(role, bytes, controls);
    add(file.name, role, bytes);
  };
  const take = (taken: readonly File[]) => {
    void taken.reduce((before, file) => before.then(() => read(file)), Promise.resolve());
  };
  controls.chooser.addEventListener("change", () => {
    take([...(controls.chooser.files ?? [])]);
    controls.chooser.value = "";
  });
  draw();
  return { node, take, add, files: () => files };
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
async function offerMachines(
  { client, announce }: Context,
  select: HTMLSelectElement,
  chosen: string | null,
): Promise<void> {
  try {
    const fleet = await client.get("machines", fleetSchema);
    select.append(...fleet.map(({ name }) => h("option", { value: name }, `${name}, as the service knows it`)));
    if (chosen !== null && fleet.some(({ name }) => name === chosen)) select.value = chosen;
  } catch {
    announce("The machines of the service cannot be offered now");
  }
}
