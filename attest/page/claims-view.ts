/// <reference lib="dom" />
import type { Claims, KeyClaim } from "../claims.ts";
import { digest } from "./digest.ts";
import { type Child, h, outside, section } from "./dom.ts";
import { table } from "./parts.ts";
import { sandboxView } from "./sandbox-view.ts";

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
          "values keys",
        ),
  );
}

/** What an attribute must be; others are shown without a judgement. The last three tell of a key's past, which may be unknown. */
const wanted: Readonly<Record<string, boolean>> = {
  sensitive: true,
  extractable: false,
  alwaysSensitive: true,
  neverExtractable: true,
  local: true,
};

function attributeList({ attributes }: KeyClaim): Child {
  const missing = Object.keys(wanted).filter((name) => !Object.hasOwn(attributes, name));
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

/** What a report says of keys and sandbox; nothing where its claims cannot be read. */
export function claimsViews(claims: Claims | null): readonly HTMLElement[] {
  return claims === null ? [] : [keysView(claims), sandboxView(claims)];
}
