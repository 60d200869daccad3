import { generateKeyPairSync, randomBytes, verify } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { lintPolicy, parsePolicy, policyRisks } from "../../policy/index.ts";
import { documentBytes } from "../support/policy-document.ts";
import { blind, EVIL } from "./attacks.ts";
import { type Lab, openLab } from "./bench.ts";
import { deliberatelyWeakPolicy, hardenedPolicy } from "./deliberately-weak-policy.ts";
import { readSections } from "./document.ts";
import { formatStep, paletteFor } from "./print.ts";
import { formsOf, searchFiles } from "./search.ts";
import type { Step, StepResult } from "./step.ts";
import { STEPS } from "./steps/index.ts";
import { runLab } from "./walk.ts";

let lab: Lab;
beforeAll(async () => {
  lab = await openLab();
});
afterAll(() => lab?.close());

/** The step, and its result. A step is run once. */
async function walk(number: number): Promise<StepResult & { readonly step: Step }> {
  const step = STEPS.find((candidate) => candidate.number === number) ?? expect.fail(`no step ${number}`);
  const result = await step.run(lab);
  for (const tried of result.tries) expect(tried.outcome, `${tried.command}: ${tried.answer}`).toBe(tried.expected);
  return { step, ...result };
}

const outcomes = ({ tries }: StepResult) => tries.map(({ outcome }) => outcome);
const decisions = ({ audit }: StepResult) =>
  audit.map(({ operation, decision, step, scope }) => [operation, decision, step ?? "-", scope].join(" "));
const reasons = ({ audit }: StepResult) => audit.map(({ reason }) => reason);

describe("break", () => {
  test("I7: under the deliberately weak policy a stock tool without a PIN gets a signature over anything, and the log calls it allowed", async () => {
    const result = await walk(1);
    expect(outcomes(result)).toEqual(["accepted"]);
    expect(decisions(result)).toEqual(["sign allow - deliberately-weak"]);
    expect(result.shown.join("\n")).toMatch(/accepts +scope deliberately-weak: raw-rsa/);
  });

  test("I7: where raw RSA is accepted a blinded message is signed, and the audit log's digest is of something else", async () => {
    const result = await walk(2);
    expect(outcomes(result)).toEqual(["accepted"]);
    const [signed] = result.audit;
    expect(signed).toMatchObject({ mechanism: "CKM_RSA_X_509", decision: "allow" });
    expect(result.shown.join("\n")).not.toContain(`message: ${signed?.inputDigest?.slice(7)}`);
  });

  test("I7: a blinded block shows nothing of its message: two of one are different, and both unblind to the one signature", () => {
    const { publicKey, privateKey } = generateKeyPairSync("rsa", { modulusLength: 1024 });
    const { n = "", d = "" } = privateKey.export({ format: "jwk" });
    const number = (text: string) => BigInt(`0x${Buffer.from(text, "base64url").toString("hex")}`);
    const raw = (block: Uint8Array) => {
      let [result, base, left] = [1n, BigInt(`0x${Buffer.from(block).toString("hex")}`), number(d)];
      for (; left > 0n; left >>= 1n, base = (base * base) % number(n))
        if (left & 1n) result = (result * base) % number(n);
      return Uint8Array.from(Buffer.from(result.toString(16).padStart(256, "0"), "hex"));
    };
    const [one, two] = [blind(publicKey, EVIL), blind(publicKey, EVIL)];
    expect(one.block).not.toEqual(two.block);
    expect(one.unblind(raw(one.block))).toEqual(two.unblind(raw(two.block)));
    expect(verify("sha256", Buffer.from(EVIL), publicKey, one.unblind(raw(one.block)))).toBe(true);
  });

  test("I7: the weak policy cannot be taken for an example: it says what it is, and the check lists what it accepts; the hardened one accepts nothing", () => {
    const now = Date.parse("2026-12-01T00:00:00Z");
    const weak = parsePolicy(documentBytes(deliberatelyWeakPolicy(lab)));
    expect([weak.owner, ...weak.scopes.map(({ name }) => name)].join()).toMatch(
      /^nobody.*deliberately weak.*deliberately-weak$/,
    );
    expect(policyRisks(weak)).toHaveLength(1);
    const hardened = parsePolicy(documentBytes(hardenedPolicy(lab)));
    expect([policyRisks(hardened), lintPolicy(hardened, now)]).toEqual([[], []]);
  });
});

describe("harden", () => {
  test("I6: another account is refused when it connects", async () => {
    const result = await walk(3);
    expect(outcomes(result)).toEqual(["refused"]);
    expect(decisions(result)).toEqual(["connect deny caller deliberately-weak"]);
    expect(reasons(result)[0]).toMatch(/^uid \d+ is not whoever-has-the-tool$/);
  });

  test("I6: another executable of the right account is refused at both doors, and the right one is served", async () => {
    const result = await walk(4);
    expect(outcomes(result)).toEqual(["refused", "refused", "accepted"]);
    expect(decisions(result)).toEqual([
      ...["connect deny caller release", "connect deny caller release", "sign allow - release"],
    ]);
    expect(reasons(result)[0]).toMatch(/^executable sha256:[0-9a-f]{64} is not listed for release-signer$/);
  });

  test("I6: the right executable outside its unit is refused", async () => {
    const result = await walk(5);
    expect(outcomes(result)).toEqual(["refused"]);
    expect(reasons(result)[0]).toMatch(/^unit .* is not that of release-signer$/);
  });

  test("I6: a caller finds another scope's key neither at its own socket nor at that scope's", async () => {
    const result = await walk(6);
    expect(outcomes(result)).toEqual(["refused", "refused"]);
    expect(decisions(result)).toEqual(["connect deny caller release"]);
  });

  test("I6: neither a block of the caller's choice nor data that is no digest is signed, and a digest is", async () => {
    const result = await walk(7);
    expect(outcomes(result)).toEqual(["refused", "refused", "refused", "accepted"]);
    expect(decisions(result)).toEqual([
      ...["sign deny mechanism packages", "sign deny parameters packages", "sign deny parameters release"],
      "sign allow - release",
    ]);
  });

  test.each([
    [8, "rate", /^more than 1 per minute$/],
    [9, "budget", /^all 2 operations of this boot are used$/],
  ])(
    "I10: what a caller that was taken over gets is bounded, over all its connections: step %i, %s",
    async (number, step, why) => {
      const result = await walk(number);
      expect(outcomes(result)).toEqual(["accepted", "accepted", "refused"]);
      expect(decisions(result)).toEqual([
        ...["sign allow - release", "sign allow - release", `sign deny ${step} release`],
      ]);
      expect(reasons(result).at(-1)).toMatch(why);
    },
  );

  test("I7: an approval opens the message that was approved, once, and no other", async () => {
    const result = await walk(10);
    expect(outcomes(result)).toEqual([
      ...["refused", "refused", "refused", "accepted", "refused", "accepted", "refused"],
    ]);
    expect(decisions(result)).toEqual([
      ...["sign deny approvals release", "sign deny approvals release"],
      ...["approve deny approvals release", "approve allow - release"],
      ...["sign deny approvals release", "sign allow - release", "sign deny approvals release"],
    ]);
    expect(result.audit.at(-2)?.approvals).toEqual(["alice"]);
  });

  test("I8: a frozen scope serves nobody, now and in the next boot", async () => {
    const result = await walk(11);
    expect(outcomes(result)).toEqual(["accepted", "refused", "refused"]);
    expect(decisions(result)).toEqual([
      ...["sign allow - release", "freeze deny - release", "sign deny frozen release"],
      ...["freeze deny - release", "sign deny frozen release"],
    ]);
  });
});

test("I8: the log shows where trust moved; an edit is found in it, and a cut by whoever kept its head", async () => {
  const result = await walk(12);
  expect(outcomes(result)).toEqual([
    ...["accepted", "refused", "accepted"],
    ...["accepted", "refused", "refused", "accepted"],
  ]);
  expect(decisions(result)).toEqual([
    ...["sign allow - deliberately-weak", "connect deny caller release", "sign allow - release"],
  ]);
  expect(result.tries.map(({ answer }) => /ERR_\w+/.exec(answer)?.[0] ?? "").filter((code) => code !== "")).toEqual([
    ...["ERR_AUDIT_MALFORMED", "ERR_AUDIT_ROLLED_BACK"],
  ]);
});

test("I6: the token's real PIN opens nothing, and a wrong one closes nothing", async () => {
  const result = await walk(13);
  expect(outcomes(result)).toEqual(["refused", "accepted", "accepted"]);
  expect(JSON.stringify([result.tries, result.shown, result.audit])).not.toContain(lab.token.pin);
});

describe("backup and restore", () => {
  test("I7: a wrapped key comes back as what the policy says and nothing more, and its bytes are nowhere on the way", async () => {
    const result = await walk(14);
    expect(result.tries.map(({ answer }) => /0x[0-9a-f]+/.exec(answer)?.[0] ?? "-").slice(1, 4)).toEqual([
      ...["0x110", "0xd1", "0x0"],
    ]);
    expect(result.shown.at(-1)).toBe(
      "on the token: came back: sign true, decrypt false, unwrap false, sensitive true, extractable false",
    );
    expect(decisions(result).filter((line) => line.includes("allow"))).toEqual([
      ...["unwrap allow - restore", "sign allow - restored"],
    ]);
    // The client's calls were searched, too: the blob is there.
    expect(result.tries.at(-1)?.answer).toMatch(/found in .*spied\/calls\.log/);
  });

  test("I7: the search finds a secret in every form that it knows, and a third of one", () => {
    const directory = mkdtempSync(join(tmpdir(), "lab-search-"));
    try {
      const secret = Uint8Array.from(randomBytes(32));
      const bytes = Buffer.from(secret);
      const spaced = bytes
        .toString("hex")
        .toUpperCase()
        .replace(/..(?=.)/g, "$& ");
      const forms = [bytes, bytes.toString("hex"), spaced, bytes.subarray(11, 22), `x${bytes.toString("base64")}`];
      const shifted = Buffer.concat([Buffer.of(1, 2), bytes]).toString("base64url");
      for (const [index, form] of [...forms, shifted].entries()) writeFileSync(join(directory, `${index}`), form);
      writeFileSync(join(directory, "other"), randomBytes(4096));
      const { files, searched } = searchFiles(directory, secret);
      expect([files.length, searched]).toEqual([6, 7]);
      expect(formsOf(secret).every((needle) => needle.length >= 8)).toBe(true);
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
});

describe("the walkthrough", () => {
  test("I10: its document has a picture, and says what cannot be seen, for every step by its number and title", () => {
    expect(readSections().map(({ number, title }) => `${number}. ${title}`)).toEqual(
      STEPS.map(({ number, title }) => `${number}. ${title}`),
    );
    expect(() => readSections("## 1. A title\n\n```\na picture\n```\n")).toThrow(/section 1/);
  });

  test("I10: what a program printed reaches the terminal as print only, and colours do if there is one that wants them", () => {
    const [step = expect.fail()] = STEPS;
    const [section = expect.fail()] = readSections();
    const answer = "error: \x1b]0;title\x07";
    const tries = [{ who: "tool", command: "tool", expected: "accepted", outcome: "refused", answer }] as const;
    const format = (terminal: boolean, noColor?: string) =>
      formatStep(step, section, { tries, shown: [], audit: [] }, paletteFor(terminal, noColor));
    expect(format(true)).toContain("\x1b[31mNOT as it should be\x1b[0m");
    for (const plain of [format(false), format(true, "1")]) expect(plain).not.toContain("\x1b");
    for (const sent of ["\x07", "\x1b]"]) expect(format(true)).not.toContain(sent);
  });

  test("I10: the program lists its steps, waits only when it is told to, and refuses options that mean nothing with 2", async () => {
    const printed: string[] = [];
    let waited = 0;
    const viewer = {
      print: (text: string) => void printed.push(text),
      complain: (text: string) => void printed.push(text),
      palette: paletteFor(false, undefined),
      wait: async () => {
        waited += 1;
      },
      open: async () => ({ ...lab, close: async () => undefined }),
    };
    const run = async (...args: readonly string[]) => ({ code: await runLab(args, viewer), out: printed.pop() ?? "" });
    expect((await run("--list")).out.split("\n")).toHaveLength(STEPS.length);
    expect((await run("--help")).out).toMatch(/^usage: npm run lab/);
    for (const args of [["--step", "99"], ["--step"], ["--all"], ["7"]]) expect((await run(...args)).code).toBe(2);
    const { code, out } = await run("--step", "3", "--json", "--pause");
    expect([code, waited]).toEqual([0, 0]);
    expect(JSON.parse(out)).toMatchObject([{ number: 3, holds: true, tries: [{ outcome: "refused" }] }]);
    expect((await run("--step", "3")).out).toMatch(/^Step 3, harden: Caller: the account\n[\s\S]*as it should be\n$/);
  });
});
