import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { describe, expect, it } from "vitest";
import { adviceFor, UNSEAL_FINDINGS } from "../../seal/advice.ts";

const guide = readFileSync(resolve(import.meta.dirname, "../../agent/docs/operator-guide.md"), "utf8");
const sections = new Map(
  [...guide.matchAll(/\n### `([a-z-]+)`\n([\s\S]*?)(?=\n##)/g)].map(([, code = "", text = ""]) => [code, text]),
);

describe("the operator guide", () => {
  it.each(Object.entries(UNSEAL_FINDINGS))(
    "I2: has a section for %s, which ends in the advice that the commands print",
    (code, { advice }) => {
      expect(sections.get(code)).toContain(`**Do**: ${advice}.`);
    },
  );

  it("I2: has no section for a code that is not in the table", () => {
    expect([...sections.keys()].toSorted()).toEqual(Object.keys(UNSEAL_FINDINGS).toSorted());
  });

  it("I2: each advice is one line, and only the lockout of others does not keep a credential sealed", () => {
    for (const { advice } of Object.values(UNSEAL_FINDINGS)) expect(advice).toMatch(/^[^\n]{10,160}$/);
    const harmless = Object.entries(UNSEAL_FINDINGS).flatMap(([code, { blocks }]) => (blocks ? [] : [code]));
    expect(harmless).toEqual(["tpm-locked-out"]);
    expect(adviceFor("no-such-code")).toBeUndefined();
  });
});
