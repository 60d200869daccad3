import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { sha256Hex } from "../../../policy/index.ts";
import { type ApprovalMachine, startApprovalMachine } from "../../support/approval-machine.ts";
import { keys, type Machine, machine, POLICY, STRANGE_ID } from "../../support/approvals-fixture.ts";
import { cli } from "../../support/cli.ts";
import { openSshFolder, type SshFolder } from "../../support/ssh-keys.ts";

const DOCUMENT = "release 1.2.3\n";
const digestOf = (bytes: Uint8Array | string) => createHash("sha256").update(bytes).digest();

let ssh: SshFolder;
let at: Machine;
let running: ApprovalMachine;
let id: string;
beforeEach(async () => {
  ssh = openSshFolder();
  at = machine();
  at.clock.wall = Date.now();
  const desk = { key: ssh.newKey("alice"), notFor: [] };
  at.live.policy = { ...POLICY, approvers: { ...POLICY.approvers, alice: desk } };
  ssh.newKey("mallory");
  ssh.newKey("rsa", "rsa");
  id = at.open({ input: `sha256:${sha256Hex(Uint8Array.from(digestOf(DOCUMENT)))}` });
  running = await startApprovalMachine(at.approvals);
  writeFileSync(join(ssh.path, "document"), DOCUMENT);
  writeFileSync(join(ssh.path, "other"), `${DOCUMENT}\n`);
});
afterEach(async () => {
  await running?.[Symbol.asyncDispose]();
  ssh?.[Symbol.dispose]();
});

const file = (name: string) => join(ssh.path, name);
const approve = (words: readonly string[], input = "") =>
  cli(["approve", ...words, "--machine", running.directory], input);
const signed = () => new TextDecoder().decode(at.textOf(id));

describe("ironclaw approve list", () => {
  test("shows what waits, with its id, and says so when nothing does", async () => {
    const { code, out } = await approve(["list"]);
    expect({ code, out }).toEqual({
      code: 0,
      out: `${id}  signing: signer, sign with release-ec; 0 of 2, 900 s left\n`,
    });
    at.clock.boot += 900_000;
    expect((await approve(["list"])).out).toBe("nothing waits for approval\n");
    expect(JSON.parse((await approve(["list", "--json"])).out)).toEqual({ requests: [] });
  });
});

describe("ironclaw approve show", () => {
  test("I6: shows every byte that is signed, and writes them for who signs elsewhere", async () => {
    const { code, out } = await approve(["show", id, "--out", file("request")]);
    expect(code).toBe(0);
    expect(out).toContain(`\n${signed()}-----`);
    expect(out).toContain("signer may sign once with key release-ec, through scope signing");
    expect(readFileSync(file("request"))).toEqual(Buffer.from(at.textOf(id)));
    const facts = JSON.parse((await approve(["show", id, "--json"])).out);
    expect(facts).toMatchObject({
      request: id,
      signed: signed(),
      required: 2,
      misfits: [],
      text: { for: "operation" },
    });
  });

  test("I6: compares it with a document and a policy; exit code 1 when it is not about them", async () => {
    expect((await approve(["show", id, "--input", file("document")])).code).toBe(0);
    const { code, out } = await approve(["show", id, "--input", file("other"), "--policy", file("document")]);
    expect(code).toBe(1);
    expect(out).toContain("DOES NOT FIT: policy");
    expect(out).toContain("DOES NOT FIT: input");
  });

  test("says of a window that it is one, and of times that are past that they are", async () => {
    at.clock.wall -= 86_400_000;
    const { out } = await approve(["show", at.open({ scope: "night" })]);
    expect(out).toContain("whatever scope night allows");
    expect(out).toContain("LOOK: by this computer's clock");
  });

  test("knows no id but those that wait", async () => {
    expect(await approve(["show", STRANGE_ID])).toMatchObject({
      code: 1,
      err: expect.stringContaining("ERR_APPROVAL"),
    });
    expect((await approve(["show", "alice"])).code).toBe(2);
  });
});

describe("ironclaw approve sign", () => {
  test("I6: shows the text, asks, has ssh-keygen sign it, and hands it in; two people, and the caller is served", async () => {
    const first = await approve(["sign", id, "--key", file("alice"), "--input", file("document")], "yes\n");
    expect(first).toMatchObject({ code: 0, out: "approved by alice, 1 of 2\n" });
    for (const line of signed().trimEnd().split("\n")) expect(first.err).toContain(`${line}\n`);
    // As it comes from another system.
    writeFileSync(file("bob.sig"), keys.bob.armored(at.textOf(id)).replaceAll("\n", "\r\n"));
    const second = await approve(["sign", id, "--signature", file("bob.sig"), "--json"]);
    expect(JSON.parse(second.out)).toEqual({
      accepted: true,
      approver: "bob",
      approvers: ["alice", "bob"],
      required: 2,
    });
    const request = { input: `sha256:${sha256Hex(Uint8Array.from(digestOf(DOCUMENT)))}` };
    expect([at.attempt(request), at.attempt(request)]).toEqual(["served", "nobody"]);
  });

  test.each([
    ["who does not say yes", ["--key", "alice"], "y\n", 1, /answer: expected yes/],
    ["who says nothing", ["--key", "alice"], "", 1, /nothing is signed/],
    ["what it does not fit", ["--key", "alice", "--yes", "--input", "other"], "", 1, /input: it is not about/],
    ["a key that is not there", ["--key", "no-such-key", "--yes"], "", 4, /ssh-keygen -Y sign: expected a signature/],
    ["an RSA key", ["--key", "rsa", "--yes"], "", 3, /got ssh-rsa/],
    ["a file that is no signature", ["--signature", "document"], "", 3, /ERR_SIGNATURE_MALFORMED/],
    ["neither key nor signature", [], "", 2, /expected it or --signature, got none/],
    ["both", ["--key", "alice", "--signature", "document"], "", 2, /got both/],
  ] as const)("I7: hands nothing in for %s", async (_, words, input, code, complaint) => {
    const given = words.map((word, index) => (index > 0 && !word.startsWith("-") ? file(word) : word));
    const answer = await approve(["sign", id, ...given], input);
    expect(answer.code).toBe(code);
    expect(answer.err).toMatch(complaint);
    expect(at.events).toEqual([]);
  });

  test("I6: says why the machine refuses it, with exit code 1", async () => {
    const refused = await approve(["sign", id, "--key", file("mallory"), "--yes"]);
    expect(refused).toMatchObject({ code: 1, out: expect.stringMatching(/^refused: unknown-key/) });
    await approve(["sign", id, "--key", file("alice"), "--yes"]);
    const again = await approve(["sign", id, "--key", file("alice"), "--yes", "--json"]);
    expect({ ...again, out: JSON.parse(again.out) }).toMatchObject({
      code: 1,
      out: { accepted: false, code: "approved-already" },
    });
  });

  test("I6: a signature over another request's bytes is told here, before the machine sees it", async () => {
    writeFileSync(file("sig"), ssh.sign("alice", at.textOf(at.open({ scope: "night" }))));
    const { code, err } = await approve(["sign", id, "--signature", file("sig")]);
    expect({ code, err }).toEqual({ code: 1, err: expect.stringContaining("one over its text in the namespace") });
    expect(at.events).toEqual([]);
  });

  test.each([
    ["a text with a line more", (text: string) => `${text}note: harmless\n`],
    ["a text that a terminal would act upon", (text: string) => text.replace("signer", "sig\u001b[2Aner")],
    ["the text of another request", (text: string) => text.replace(/request: .*/, `request: ${STRANGE_ID}`)],
  ])("I10: a machine that shows %s gets no signature", async (_, change) => {
    const pending = at.approvals.pending().map((shown) => ({ ...shown, text: change(shown.text) }));
    running.answer = async (line) => JSON.stringify({ id: JSON.parse(line).id, ok: true, requests: pending });
    for (const words of [["list"], ["show", id], ["sign", id, "--key", file("alice"), "--yes"]]) {
      const { code, out, err } = await approve(words);
      expect(code).toBe(3);
      expect(out + err).not.toContain("\u001b");
    }
    expect(at.events).toEqual([]);
  });
});
