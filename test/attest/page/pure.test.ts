import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { encodeEnrolment } from "../../../attest/enrolment.ts";
import { parseNonce, parsePcrList, readChallenge, roleOf, writePcrList } from "../../../attest/page/check-files.ts";
import { codeMeaning } from "../../../attest/page/codes.ts";
import { isDigest } from "../../../attest/page/digest.ts";
import { visible } from "../../../attest/page/dom.ts";
import { describeEventData } from "../../../attest/page/event-data.ts";
import {
  countByState,
  describeChanges,
  firstSelection,
  selectRows,
  sortKeys,
} from "../../../attest/page/fleet-rows.ts";
import { readReport } from "../../../attest/page/report.ts";
import { routeOf } from "../../../attest/page/routes.ts";
import { isToken } from "../../../attest/page/session.ts";
import type { Summary } from "../../../attest/page/shapes.ts";
import { absoluteTime, relativeTime } from "../../../attest/page/time.ts";
import { IronclawError } from "../../../policy/index.ts";
import { makeEvidence } from "../../support/evidence-maker.ts";
import { makeReport } from "../../support/page-fleet.ts";

const anyText = fc.string({ unit: fc.nat({ max: 0x10ffff }).map((code) => String.fromCodePoint(code)) });
const someBytes = fc.uint8Array({ maxLength: 300 });

describe("text from outside", () => {
  it("I10: nothing that hides or turns text comes through, and what a reader can see stays as it is", () => {
    fc.assert(
      fc.property(anyText, (text) => {
        expect(visible(text)).not.toMatch(/[\p{C}\p{Zl}\p{Zp}\u115f\u1160\u3164\uffa0\u2800]/u);
      }),
    );
    fc.assert(fc.property(fc.string(), (text) => void expect(visible(text)).toBe(text)));
    expect(visible("Größe, 名前, اسم")).toBe("Größe, 名前, اسم");
    expect(visible("a\u202eb\n")).toBe("a\u27e8U+202E\u27e9b\u27e8U+000A\u27e9");
  });

  it("I10: text without end is cut, and says so", () => {
    expect(visible("x".repeat(10_000))).toMatch(/^x{4096} \(and 5904 characters more\)$/);
  });

  it("a code that is a property of every object has no meaning", () => {
    for (const code of ["constructor", "__proto__", "toString"]) expect(codeMeaning(code)).toBeNull();
    expect(codeMeaning("pcr-mismatch")).toContain("register");
  });
});

describe("files that are given to the drop zone", () => {
  it("I9: are told by what is in them", async () => {
    const { enrolment } = await makeEvidence();
    const { bytes } = await makeReport("m1");
    const text = (value: unknown) => new TextEncoder().encode(JSON.stringify(value));
    expect(roleOf(bytes)).toBe("report");
    expect(roleOf(encodeEnrolment(enrolment))).toBe("enrolment");
    expect(roleOf(text({ payloadType: "x", payload: "", signatures: [] }))).toBe("release");
    expect(roleOf(text({ version: 1, releaseRoot: "", operator: "" }))).toBe("anchors");
    expect(roleOf(new TextEncoder().encode('// comment\n{ "minAssurance": "provider-ek" }'))).toBe("policy");
    expect(roleOf(text({ nonce: "AA==", bank: "sha256" }))).toBe("challenge");
    expect(roleOf(new Uint8Array(32))).toBe("nonce");
    expect(roleOf(new TextEncoder().encode(`${"ab".repeat(32)}\n`))).toBe("nonce");
    expect(roleOf(new TextEncoder().encode("garbage"))).toBe("report");
  });

  it("I10: any bytes have a role, and no reader throws", () => {
    fc.assert(
      fc.property(someBytes, (bytes) => {
        expect(typeof roleOf(bytes)).toBe("string");
        expect(readChallenge(bytes)).toBeNull();
      }),
    );
  });

  it("I9: a nonce is 32 bytes in hexadecimal or base64, and nothing else", () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 32, maxLength: 32 }), (nonce) => {
        expect(parseNonce(nonce.toHex())).toEqual(nonce);
        expect(parseNonce(` ${nonce.toBase64()}\n`)).toEqual(nonce);
        expect(parseNonce(nonce.subarray(1).toHex())).toBeNull();
        expect(parseNonce(`${nonce.toHex()}00`)).toBeNull();
      }),
    );
    fc.assert(fc.property(fc.string(), (text) => void expect(parseNonce(text)?.length ?? 32).toBe(32)));
  });

  it("registers are a list of indices; written and read it is the same", () => {
    fc.assert(
      fc.property(fc.uniqueArray(fc.nat({ max: 23 }), { minLength: 1 }), (pcrs) => {
        const sorted = pcrs.toSorted((a, b) => a - b);
        expect(parsePcrList(writePcrList(sorted))).toEqual(sorted);
      }),
    );
    for (const text of ["", "24", "3-1", "a", "1,,2", "-1", "1-2-3"]) expect(parsePcrList(text), text).toBeNull();
  });
});

describe("reports in the browser", () => {
  it("I9: the logs of an honest report explain every register", async () => {
    const report = readReport((await makeReport("m1")).bytes);
    expect(report.problems).toEqual([]);
    expect([...report.explained]).toEqual([...report.values.keys()]);
  });

  it("I10: a report with any byte changed is read or refused with a typed error", async () => {
    const { bytes } = await makeReport("m1");
    fc.assert(
      fc.property(fc.nat({ max: bytes.length - 1 }), fc.integer({ min: 1, max: 255 }), (at, change) => {
        const changed = bytes.slice();
        changed[at] = (changed[at] ?? 0) ^ change;
        try {
          readReport(changed);
        } catch (error) {
          expect(error).toBeInstanceOf(IronclawError);
        }
      }),
      { numRuns: 300 },
    );
  });

  it("I10: what a firmware event says of itself is described, whatever it is, in bounded text", () => {
    const types = fc.constantFrom(0x4, 0x5, 0xd, 0x80000001, 0x80000002, 0x800000e0, 0x80000007);
    fc.assert(
      fc.property(types, someBytes, (type, data) => {
        expect(describeEventData({ type, data }).length).toBeLessThan(300);
      }),
    );
    const variable = new Uint8Array(32 + 20 + 1);
    new DataView(variable.buffer).setBigUint64(16, 10n, true);
    new DataView(variable.buffer).setBigUint64(24, 1n, true);
    variable.set(
      [..."SecureBoot"].flatMap((letter) => [letter.charCodeAt(0), 0]),
      32,
    );
    expect(describeEventData({ type: 0x80000001, data: variable })).toBe("variable SecureBoot, 1 bytes");
    expect(describeEventData({ type: 0x5, data: new TextEncoder().encode("Exit Boot Services\0") })).toBe(
      "Exit Boot Services",
    );
    expect(describeEventData({ type: 0x4, data: new Uint8Array(4) })).toBe("zeros");
  });
});

const summaries = fc.array(
  fc.record({
    name: fc.stringMatching(/^[a-z]{1,4}$/),
    state: fc.constantFrom("affirming", "warning", "contraindicated", "refused", "enrolled", "silent", "new-kind"),
    tier: fc.constant(null),
    assurance: fc.constantFrom("software-tpm", "provider-ek"),
    release: fc.option(fc.string()),
    launch: fc.constant(null),
    lastSeen: fc.constant(null),
    violations: fc.nat(),
    flags: fc.array(fc.constantFrom("clone", "changed")),
  }) satisfies fc.Arbitrary<Summary>,
);

describe("the rows of the list", () => {
  it("sorting loses no machine, and the other direction is the mirror image but for equal ones", () => {
    fc.assert(
      fc.property(summaries, fc.constantFrom(...sortKeys), fc.boolean(), (fleet, sort, descending) => {
        const rows = selectRows(fleet, { ...firstSelection, sort, descending });
        expect(rows.toSorted(byIdentity(fleet))).toEqual(fleet);
      }),
    );
  });

  it("what is shown for a state is what was counted", () => {
    fc.assert(
      fc.property(summaries, (fleet) => {
        for (const [state, count] of countByState(fleet))
          expect(selectRows(fleet, { ...firstSelection, state })).toHaveLength(count);
      }),
    );
  });

  it("a state that is not known comes first: nobody knows that it is good", () => {
    const row = (name: string, state: string): Summary => ({
      name,
      state,
      tier: null,
      assurance: "",
      release: null,
      launch: null,
      lastSeen: null,
      violations: 0,
      flags: [],
    });
    const rows = selectRows([row("a", "affirming"), row("b", "new-kind"), row("c", "contraindicated")], firstSelection);
    expect(rows.map(({ name }) => name)).toEqual(["b", "c", "a"]);
    expect(describeChanges([row("a", "affirming")], [row("a", "refused"), row("b", "enrolled")])).toBe(
      "b is new, a is now refused",
    );
    expect(describeChanges([], [])).toBe("");
  });
});

function byIdentity(fleet: readonly Summary[]) {
  return (a: Summary, b: Summary) => fleet.indexOf(a) - fleet.indexOf(b);
}

describe("addresses, times and tokens", () => {
  it("I10: an address names a view, nothing, or something unknown; it never throws", () => {
    fc.assert(fc.property(fc.string(), (text) => void routeOf(`#/${text}`)));
    fc.assert(
      fc.property(fc.stringMatching(/^[\w.-]{1,64}$/), (name) => {
        expect(routeOf(`#/machines/${encodeURIComponent(name)}`)).toEqual({ kind: "machine", name, report: null });
      }),
    );
    expect(routeOf("")).toEqual({ kind: "fleet" });
    expect(routeOf("#main")).toBeNull();
    expect(routeOf("#/machines/a/reports/7")).toEqual({ kind: "machine", name: "a", report: "7" });
    for (const hash of ["#/x", "#/machines/", "#/machines/a/b", "#/machines/a/reports/7/8", "#/machines/%"])
      expect(routeOf(hash), hash).toEqual({ kind: "unknown" });
  });

  it("a time is said relative to now, and what is no time is said to be none", () => {
    const now = new Date("2026-06-01T12:00:00Z");
    expect(relativeTime("2026-06-01T11:58:30Z", now)).toBe("1 minute ago");
    expect(relativeTime("2026-06-01T12:00:02Z", now)).toBe("just now");
    expect(relativeTime("2026-06-01T15:00:00Z", now)).toBe("in 3 hours");
    expect(relativeTime("soon", now)).toBe("at an unknown time");
    expect(absoluteTime("2026-06-01T11:58:30.123Z")).toBe("2026-06-01 11:58:30 UTC");
    expect(absoluteTime("soon")).toBe("soon");
  });

  it("a token can stand in a header, and nothing else is one", () => {
    fc.assert(fc.property(fc.string(), (text) => !isToken(text) || /^[\x21-\x7e]+$/.test(text)));
    expect(isToken("abc.DEF_~+/-==")).toBe(true);
    for (const text of ["", "a b", "a\r\nx: y", "x".repeat(513)]) expect(isToken(text)).toBe(false);
  });

  it("a digest is known by its length", () => {
    for (const length of [40, 64, 68, 96]) expect(isDigest("a".repeat(length)), `${length}`).toBe(true);
    for (const length of [0, 8, 65, 200]) expect(isDigest("a".repeat(length)), `${length}`).toBe(false);
  });
});
