import { describe, expect, test } from "vitest";
import { parseApprovalText } from "../../../agent/approvals/index.ts";
import { MAX_PENDING } from "../../../agent/approvals/pending.ts";
import { encodeSshSignature, utf8 } from "../../../policy/index.ts";
import {
  keys,
  lineOf,
  type Machine,
  machine,
  POLICY,
  REQUEST,
  STRANGE_ID,
  WINDOW,
} from "../../support/approvals-fixture.ts";
import { testSshKey } from "../../support/ssh-keys.ts";

const other = { input: `sha256:${"ac".repeat(32)}` };
const opened = () => {
  const at = machine();
  return { at, id: at.open() };
};

describe("I7: an operation that needs two approvals", () => {
  test("is served once, when two approvers have signed its text", async () => {
    const { at, id } = opened();
    expect(at.attempt()).toBe("nobody");
    expect(await at.approve(id, "alice")).toBe("accepted");
    expect(at.attempt()).toBe("alice");
    expect(await at.approve(id, "erin")).toBe("accepted");
    expect(at.attempt()).toBe("served");
    expect(at.attempt()).toBe("nobody");
  });

  test("waits under one id, however often it is tried, and each other operation under its own", () => {
    const { at, id } = opened();
    expect(at.open()).toBe(id);
    const changes = [
      other,
      { key: "other" },
      { keySpki: `sha256:${"12".repeat(32)}` },
      { operation: "decrypt" as const },
      { mechanism: "CKM_RSA_PKCS" },
      { parameters: "none " },
      { scope: "solo" },
    ];
    const ids = changes.map((change) => at.open(change));
    expect(new Set([id, ...ids]).size).toBe(changes.length + 1);
    expect(at.approvals.pending().map(({ request }) => request)).toEqual([id, ...ids]);
  });

  test("shows what is signed, who may approve it, who has, and how long it waits", async () => {
    const { at, id } = opened();
    await at.approve(id, "bob");
    at.clock.boot += 60_000;
    const [pending] = at.approvals.pending();
    const shown = { request: id, required: 2, of: ["alice", "bob", "erin"], approvers: ["bob"], secondsLeft: 840 };
    expect(pending).toMatchObject(shown);
    expect(parseApprovalText(utf8(pending?.text ?? ""))).toEqual({
      ...{ for: "operation", machine: `000b${"ef".repeat(32)}`, boot: "01".repeat(32), request: id },
      ...{ policy: `sha256:${"cd".repeat(32)}`, serial: "7", scope: "signing", caller: "signer", key: "release-ec" },
      ...{ "key-spki": REQUEST.keySpki, operation: "sign", mechanism: "CKM_ECDSA", parameters: "none" },
      ...{ input: REQUEST.input, expires: "2027-01-15T12:15:00Z" },
    });
  });

  test("I8: is recorded before it counts, with who approved what; a record that cannot be written approves nothing", async () => {
    const { at, id } = opened();
    at.live.record = () => Promise.reject(new Error("disk full"));
    await expect(at.approve(id, "alice")).rejects.toThrow("disk full");
    expect(at.attempt()).toBe("nobody");
    at.live.record = async () => expect(at.attempt()).toBe("nobody");
    expect(await at.approve(id, "alice")).toBe("accepted");
    expect(at.events).toEqual([
      expect.objectContaining({ approver: "alice", accepted: true, reason: `1 of 2 for request ${id}` }),
    ]);
    expect(at.events[0]?.text).toMatchObject({ request: id, scope: "signing", input: REQUEST.input });
  });
});

describe("I7: an approval is worth nothing", () => {
  const refusals: readonly [string, (at: Machine, id: string) => Promise<string>, string][] = [
    ["for another request", (at, id) => at.approve(id, "alice", at.open(other)), "bad-signature"],
    ["of another boot", (at, id) => at.hand(id, keys.alice.armored(textOfBoot(2, id))), "bad-signature"],
    ["with one byte more", (at, id) => at.hand(id, keys.alice.armored(plus(at.textOf(id)))), "bad-signature"],
    [
      "in another namespace",
      (at, id) => at.hand(id, keys.alice.armored(at.textOf(id), { namespace: "file" })),
      "wrong-namespace",
    ],
    ["that a look-alike signs", (at, id) => at.hand(id, testSshKey().armored(at.textOf(id))), "unknown-key"],
    ["of an approver that the scope does not list", (at, id) => at.approve(id, "mallory"), "not-listed"],
    ["of an approver who is notFor the caller", (at, id) => at.approve(id, "carol"), "not-for-caller"],
    [
      "of a security key that nobody touched",
      (at, id) => at.hand(id, keys.erin.armored(at.textOf(id), { security: { flags: 0, counter: 9 } })),
      "not-touched",
    ],
    ["that is no signature", (at, id) => at.hand(id, "approved, Alice"), "malformed"],
    ["for a request that nobody knows", (at, id) => at.approve(id, "alice", STRANGE_ID), "unknown-request"],
  ];
  const textOfBoot = (boot: number, id: string) => {
    const there = machine(boot);
    expect(there.open()).toBe(id); // the same in all but the nonce
    return there.textOf(id);
  };
  const plus = (bytes: Uint8Array) => Uint8Array.of(...bytes, 0x0a);

  test.each(refusals)("%s, and the refusal is recorded", async (_, act, code) => {
    const { at, id } = opened();
    expect(await act(at, id)).toBe(code);
    expect(at.events.map(({ accepted, reason }) => [accepted, reason.split(":")[0]])).toEqual([[false, code]]);
    for (const { approvers } of at.approvals.pending()) expect(approvers).toEqual([]);
  });

  test("twice: the same signature, a second one of the same key, and both after it was used", async () => {
    const { at, id } = opened();
    const armored = keys.alice.armored(at.textOf(id));
    expect(await at.hand(id, armored)).toBe("accepted");
    expect(await at.hand(id, armored)).toBe("approved-already");
    expect(await at.hand(id, keys.alice.armored(at.textOf(id), { hash: "sha256" }))).toBe("approved-already");
    expect(at.attempt()).toBe("alice");
    expect(await at.approve(id, "bob")).toBe("accepted");
    expect(at.attempt()).toBe("served");
    expect(await at.hand(id, armored)).toBe("unknown-request");
    const again = at.open();
    expect(again).not.toBe(id);
    expect(await at.hand(again, armored)).toBe("bad-signature");
  });

  test("when two come at once: each is counted once", async () => {
    const { at, id } = opened();
    const armored = keys.alice.armored(at.textOf(id));
    const answers = await Promise.all([1, 2, 3].map(() => at.hand(id, armored)));
    expect(answers).toEqual(["accepted", "approved-already", "approved-already"]);
    expect(at.attempt()).toBe("alice");
  });

  test("after a restart, with whatever disk: nothing is kept", async () => {
    const { at, id } = opened();
    const armored = (["alice", "bob"] as const).map((name) => keys[name].armored(at.textOf(id)));
    const next = machine(2);
    expect(await next.hand(id, armored[0] ?? "")).toBe("unknown-request");
    expect(next.open()).toBe(id);
    for (const text of armored) expect(await next.hand(id, text)).toBe("bad-signature");
    expect(next.attempt()).toBe("nobody");
  });

  test("under another policy: what waited, and what was approved, is void", async () => {
    const { at, id } = opened();
    const armored = keys.alice.armored(at.textOf(id));
    await at.approve(id, "bob");
    at.live.policy = { ...POLICY, serial: 8 };
    expect(await at.hand(id, armored)).toBe("unknown-request");
    expect(at.approvals.pending()).toEqual([]);
    expect(at.attempt()).toBe("nobody");
    expect(await at.hand(at.open(), armored)).toBe("bad-signature");
  });

  test("when the policy changes while it is recorded", async () => {
    const { at, id } = opened();
    at.live.record = async () => {
      at.live.policy = { ...POLICY, serial: 8 };
    };
    expect(await at.approve(id, "alice")).toBe("unknown-request");
    expect(at.events.map(({ accepted }) => accepted)).toEqual([true, false]);
    expect(at.attempt()).toBe("nobody");
  });

  test("for a scope that needs none, nor for another caller: nothing waits there", () => {
    const at = machine();
    expect(at.approvals.gate.approvedBy({ ...REQUEST, scope: "free" })).toEqual({ id: "", approvers: [] });
    expect(at.approvals.gate.approvedBy({ ...REQUEST, scope: "nowhere" })).toEqual({ id: "", approvers: [] });
    expect(at.approvals.gate.approvedBy({ ...REQUEST, caller: "backup" })).toEqual({ id: "", approvers: [] });
    expect(at.approvals.pending()).toEqual([]);
  });

  test("that is not there cannot be used", async () => {
    const { at, id } = opened();
    await at.approve(id, "alice");
    expect(at.approvals.gate.use(REQUEST)).toBe(false);
    expect(at.approvals.gate.use({ ...REQUEST, ...other })).toBe(false);
  });
});

describe("I7: one key is one approver", () => {
  const twice = (change: object) => {
    const at = machine();
    at.live.policy = { ...POLICY, approvers: { ...POLICY.approvers, ...change } };
    return { at, id: at.open() };
  };

  test("under two names, and as a plain and as a security key with the same bytes", async () => {
    const seed = new Uint8Array(32).fill(5);
    const [plain, security] = [testSshKey(null, seed), testSshKey("ssh:", seed)];
    const { at, id } = twice({
      alice: { key: lineOf(plain), notFor: [] },
      bob: { key: lineOf(security), notFor: [] },
      erin: { key: lineOf(plain, "another comment"), notFor: [] },
    });
    expect(await at.hand(id, plain.armored(at.textOf(id)))).toBe("accepted");
    expect(await at.hand(id, security.armored(at.textOf(id)))).toBe("approved-already");
    expect(at.attempt()).toBe("alice");
  });

  test("and what one of its names may not do, it may not do", async () => {
    const { at, id } = twice({ bob: { key: lineOf(keys.carol), notFor: [] } });
    expect(await at.approve(id, "carol")).toBe("not-for-caller");
    const strict = twice({ erin: { key: lineOf(keys.erin, "", true), notFor: [] } });
    expect(await strict.at.approve(strict.id, "erin")).toBe("not-verified");
    const verified = keys.erin.armored(strict.at.textOf(strict.id), { security: { flags: 5, counter: 1 } });
    expect(await strict.at.hand(strict.id, verified)).toBe("accepted");
  });

  test("another key under his name, or with his comment, is not he", async () => {
    const { at, id } = twice({ al1ce: { key: lineOf(keys.mallory, "alice@desk"), notFor: [] } });
    expect(await at.hand(id, keys.mallory.armored(at.textOf(id)))).toBe("not-listed");
    const claims = { ...keys.mallory.sign(at.textOf(id)), key: keys.alice.key };
    expect(await at.hand(id, encodeSshSignature(claims))).toBe("bad-signature");
    expect(at.events.map(({ approver }) => approver)).toEqual(["mallory", null]);
  });
});

describe("I7: clocks", () => {
  test("a request and its approvals end with the policy's window, by the clock that nobody sets", async () => {
    const { at, id } = opened();
    await at.approve(id, "alice");
    await at.approve(id, "bob");
    const late = keys.erin.armored(at.textOf(id));
    at.clock.boot += WINDOW - 1;
    expect(at.approvals.pending()).toMatchObject([{ request: id, secondsLeft: 1 }]);
    at.clock.boot += 1;
    expect(await at.hand(id, late)).toBe("unknown-request");
    expect(at.attempt()).toBe("nobody");
  });

  test("setting the wall clock makes nothing live longer or end sooner, and no text another", async () => {
    const { at, id } = opened();
    const text = at.textOf(id);
    for (const jump of [10 * 365 * 86_400_000, -20 * 365 * 86_400_000]) {
      at.clock.wall += jump;
      expect(at.textOf(id)).toEqual(text);
      expect(at.open()).toBe(id);
    }
    expect(await at.approve(id, "alice")).toBe("accepted");
    at.clock.boot += WINDOW;
    expect(await at.approve(id, "bob")).toBe("unknown-request");
  });
});

describe("I7: a window", () => {
  const night = { scope: "night" };

  test("is one request for the scope; once approved all operations are served until it ends", async () => {
    const at = machine();
    const id = at.open(night);
    expect(at.open({ ...night, ...other })).toBe(id);
    expect(parseApprovalText(at.textOf(id))).toMatchObject({
      ...{ for: "window", scope: "night", caller: "signer", keys: "release-ec", mechanisms: "CKM_ECDSA" },
      ...{ from: "2027-01-15T12:00:00Z", until: "2027-01-15T12:15:00Z" },
    });
    at.clock.boot += WINDOW / 2;
    for (const name of ["alice", "bob"] as const) expect(await at.approve(id, name)).toBe("accepted");
    for (const change of [night, { ...night, ...other }, night]) expect(at.attempt(change)).toBe("served");
    expect(at.attempt()).toBe("nobody");
    at.clock.boot += WINDOW / 2;
    expect(at.attempt(night)).toBe("nobody");
    expect(at.open(night)).not.toBe(id);
  });

  test("is no approval of an operation, nor the reverse", async () => {
    const { at, id } = opened();
    const window = at.open(night);
    expect(await at.approve(window, "alice", id)).toBe("bad-signature");
    expect(await at.approve(id, "alice", window)).toBe("bad-signature");
  });
});

describe("I10: a flood of requests", () => {
  test("fills its own scope's room, pushes out nothing that is there, and nothing of another scope", async () => {
    const at = machine();
    const quiet = at.open({ scope: "solo" });
    const first = at.open();
    const digest = (index: number) => ({ input: `sha256:${index.toString(16).padStart(64, "0")}` });
    const ids = Array.from({ length: 1000 }, (_, index) => at.open(digest(index)));
    expect(ids.filter((id) => id !== "").length).toBe(MAX_PENDING - 1);
    expect(at.approvals.pending().length).toBe(MAX_PENDING + 1);
    for (const name of ["alice", "bob"] as const) expect(await at.approve(first, name)).toBe("accepted");
    expect(await at.approve(quiet, "alice")).toBe("accepted");
    expect(at.attempt({ scope: "solo" })).toBe("served");
    expect(at.attempt()).toBe("served");
    expect(at.open(digest(2000))).not.toBe("");
    at.clock.boot += WINDOW;
    expect(at.approvals.pending()).toEqual([]);
    expect(at.open(digest(3000))).not.toBe("");
  });

  test("of signatures for requests that nobody knows leaves nothing behind", async () => {
    const at = machine();
    for (let index = 0; index < 100; index++)
      expect(await at.hand(STRANGE_ID, keys.alice.armored(utf8(`${index}`)))).toBe("unknown-request");
    expect(at.approvals.pending()).toEqual([]);
    expect(at.events.every(({ text, approver }) => text === null && approver === null)).toBe(true);
  });
});
