/// <reference lib="dom" />
import type { Claims, KeyClaim, ShimClaim } from "../claims.ts";
import { digest } from "./digest.ts";
import { type Child, h, outside, section } from "./dom.ts";
import { table } from "./parts.ts";

/** Tokens, and the keys that the agent serves from them with what the library says about each. */
function keysView({ asserted }: Claims): HTMLElement {
  const { tokens, keys } = asserted;
  const tokenRows = tokens.map((token) => [
    outside(token.name),
    outside(token.label),
    outside(token.serial),
    outside(`${token.manufacturer} ${token.model}`),
    outside(token.firmware),
  ]);
  const keyRows = keys.map((key) => () => [
    outside(key.name),
    outside(key.token),
    key.does,
    attributeList(key),
    digest(key.spki),
  ]);
  return section(
    "Tokens and keys",
    {},
    h("p", { class: "quiet" }, "Attributes are what the PKCS#11 library answered; the agent measured the answers."),
    tokens.length === 0
      ? h("p", {}, "No token took its PIN.")
      : table(
          "Tokens",
          ["Token", "Label", "Serial", "Maker and model", "Firmware"].map((title) => ({ title })),
          tokenRows,
        ),
    keys.length === 0
      ? h("p", {}, "No key is served.")
      : table(
          "Keys",
          [
            { title: "Key" },
            { title: "Token" },
            { title: "Does" },
            { title: "Attributes" },
            { title: "Public key, SHA-256", className: "wide" },
          ],
          keyRows,
          "values",
        ),
  );
}

/** What an attribute must be; others are shown without a judgement. */
const wanted: Readonly<Record<string, boolean>> = {
  sensitive: true,
  extractable: false,
  neverExtractable: true,
  alwaysSensitive: true,
};

function attributeList({ attributes }: KeyClaim): Child {
  const missing = Object.keys(wanted).filter((name) => name !== "alwaysSensitive" && !Object.hasOwn(attributes, name));
  const said = Object.entries(attributes).map(([name, value]) => {
    const good = !Object.hasOwn(wanted, name) || wanted[name] === value;
    return h(
      "li",
      { class: good ? null : "differs" },
      outside(name),
      ` ${value ? "yes" : "no"}`,
      good ? null : " \u2717",
    );
  });
  return h(
    "ul",
    { class: "attributes" },
    said,
    missing.map((name) => h("li", { class: "differs" }, `${name} not answered`)),
  );
}

const errnos: Readonly<Record<number, string>> = {
  1: "EPERM",
  2: "ENOENT",
  9: "EBADF",
  13: "EACCES",
  22: "EINVAL",
  38: "ENOSYS",
  97: "EAFNOSUPPORT",
};

/** The sandbox of the vendor's library: as the spawner saw it, what it tried on itself, and what the kernel saw of that. */
function sandboxView({ asserted, selfReported }: Claims): HTMLElement {
  const { probeWitnessed, violations } = asserted;
  const seen = (attempt: string) => probeWitnessed.get(attempt) ?? probeWitnessed.get(attempt.split(" ")[0] ?? "") ?? 0;
  const rows = [...selfReported.probe].map(([attempt, errno]) => () => [
    h("code", {}, outside(attempt)),
    errno === 0
      ? h("span", { class: "differs" }, "\u2717 succeeded")
      : h("span", { class: "agrees" }, `\u2713 denied (${errnos[errno] ?? `errno ${errno}`})`),
    seen(attempt) === 0
      ? h("span", { class: "quiet" }, "not notified")
      : seen(attempt) === 1
        ? "once"
        : `${seen(attempt)} times`,
  ]);
  return section(
    "Sandbox of the library",
    {},
    shimTable(asserted),
    rows.length === 0
      ? h("p", {}, "No escape was tried: the library's process was not started.")
      : table(
          "Escapes that the sandbox tried on itself",
          [{ title: "Tried" }, { title: "Answer" }, { title: "Seen by the kernel" }],
          rows,
        ),
    h("h3", {}, "Denied calls since then"),
    violations.size === 0
      ? h("p", {}, "None.")
      : table(
          "Denied calls of the library",
          [{ title: "Call" }, { title: "Times" }],
          [...violations].map(([call, times]) => () => [h("code", {}, outside(call)), `${times}`]),
        ),
  );
}

/** The library's processes, of which each token has its own. */
function shimTable({ shims }: Claims["asserted"]): HTMLElement {
  if (shims.length === 0) return h("p", {}, "The spawner reports no process of the library.");
  return table(
    "Processes of the library",
    ["Token", "Process", "Role", "User", "Seccomp filters", "Landlock", "Capabilities", "Namespaces of its own"].map(
      (title) => ({ title }),
    ),
    shims.map((shim) => () => [outside(shim.token), `${shim.id}`, shim.role, ...processCells(shim)]),
  );
}

function processCells({ landlock, process }: ShimClaim): readonly Child[] {
  if (process === null) return ["", "", `${landlock}`, "", ""];
  const { uid, seccompFilters, inheritedFilters, capabilities, namespaces } = process;
  return [
    `${uid}${uid === 0 ? " (root \u2717)" : ""}`,
    `${seccompFilters}${inheritedFilters === 0 ? "" : `, ${inheritedFilters} of them inherited`}`,
    `${landlock}`,
    /^0+$/.test(capabilities) ? "none" : outside(capabilities),
    outside(namespaces.join(", ") || "none"),
  ];
}

/** What a report says of keys and sandbox; nothing where its claims cannot be read. */
export function claimsViews(claims: Claims | null): readonly HTMLElement[] {
  return claims === null ? [] : [keysView(claims), sandboxView(claims)];
}
