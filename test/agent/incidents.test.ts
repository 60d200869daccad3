import { describe, expect, test } from "vitest";
import type { AuditEntry } from "../../agent/audit/record.ts";
import { newLaunchRecord } from "../../agent/launch/environment.ts";
import type { Attempt } from "../../agent/native/index.ts";
import { IncidentLog } from "../../agent/shims/incidents.ts";
import { type Incident, incidentEvent, type LaunchEvent, MAX_INCIDENTS, MAX_WHY } from "../../attest/index.ts";
import { verifyEvidence } from "../../attest/verify.ts";
import { syscallNumber } from "../../policy/runtime/syscalls.ts";
import { replacement } from "../support/appraisal-rows.ts";
import { makeEvidence } from "../support/evidence-maker.ts";

/** A TPM that extends, slowly, one after the other. */
function slowLog() {
  const events: LaunchEvent[] = [];
  let tail: Promise<void> = Promise.resolve();
  const measure = (event: LaunchEvent, settle: () => void = () => undefined) => {
    tail = tail.then(async () => {
      await new Promise(setImmediate);
      events.push(event);
      settle();
    });
    return tail;
  };
  return { events, log: { measure } };
}

/** An audit log that takes everything. */
function openAudit() {
  const entries: AuditEntry[] = [];
  const append = async (entry: AuditEntry) => {
    entries.push(entry);
    return { seq: entries.length, hash: "" };
  };
  return { entries, audit: { append } };
}

const { token } = replacement;
const call = (name: string, count = 1): Attempt => ({
  ...{ nr: syscallNumber(name) ?? -1, args: Array(6).fill(0n), tid: 7, count },
});
const nothing = () => undefined;

describe("the record of incidents", () => {
  test("I5: a library that floods one kind hides no other, and the report stays one that verifies", async () => {
    const { events, log } = slowLog();
    const { entries, audit } = openAudit();
    const record = newLaunchRecord();
    const incidents = new IncidentLog({ log, audit, record });
    const all = [
      ...Array.from({ length: 500 }, (_, count) => incidents.violation(token, 0, call("ptrace", count))),
      ...Array.from({ length: 40 }, () => incidents.device("usb:08e6:4433", "added")),
      ...Array.from({ length: 16 }, (_, from) => incidents.replaced({ ...replacement, from }, nothing)),
    ];
    await Promise.all(all);
    const counts = (["syscall", "device", "replacement"] as const).map(
      (what) => record.incidents.filter((incident) => incident.what === what).length,
    );
    expect(counts).toEqual([40, 8, 16]);
    expect(record.incidents).toHaveLength(MAX_INCIDENTS);
    expect(entries).toHaveLength(MAX_INCIDENTS);
    expect(events).toEqual(record.incidents.map(incidentEvent));
    const { evidence, challenge, enrolment } = await makeEvidence({ incidents: record.incidents });
    expect((await verifyEvidence(evidence, challenge, enrolment, null)).claims.asserted.incidents).toEqual(
      record.incidents,
    );
  });

  test("I5: what could not be measured is not told either", async () => {
    const record = newLaunchRecord();
    const log = { measure: () => Promise.reject(new Error("the TPM is gone")) };
    const incidents = new IncidentLog({ log, audit: openAudit().audit, record });
    await expect(incidents.violation(token, 0, call("bpf"))).rejects.toThrow("the TPM is gone");
    expect(record.incidents).toEqual([]);
    expect(incidents.violated).toBe(true);
  });

  test("I5: a number that no table knows is told too", async () => {
    const record = newLaunchRecord();
    const incidents = new IncidentLog({ log: slowLog().log, audit: openAudit().audit, record });
    await incidents.violation(token, 0, { ...call("bpf"), nr: -1 });
    const { evidence, challenge, enrolment } = await makeEvidence({ incidents: record.incidents });
    await expect(verifyEvidence(evidence, challenge, enrolment, null)).resolves.toBeDefined();
    const [incident]: readonly Incident[] = record.incidents;
    expect(incident).toMatchObject({ what: "syscall", nr: 0, syscall: "syscall_-1" });
  });

  test.each([
    ["long", "x\u{1f600}".repeat(500)],
    ["broken", "an error: \ud83d, and \udc00"],
  ])("I10: a %s reason of a replacement is made one that a verifier reads", async (_what, why) => {
    const record = newLaunchRecord();
    const incidents = new IncidentLog({ log: slowLog().log, audit: openAudit().audit, record });
    await incidents.replaced({ ...replacement, why }, nothing);
    const [incident] = record.incidents;
    expect(incident?.what === "replacement" && incident.why.length).toBeLessThanOrEqual(MAX_WHY);
    const { evidence, challenge, enrolment } = await makeEvidence({ incidents: record.incidents });
    await expect(verifyEvidence(evidence, challenge, enrolment, null)).resolves.toBeDefined();
  });
});
