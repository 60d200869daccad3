import { describe, expect, test } from "vitest";
import { IncidentLog } from "../../agent/incidents.ts";
import { newLaunchRecord } from "../../agent/launch/environment.ts";
import { type Incident, incidentEvent, type LaunchEvent, MAX_INCIDENTS, MAX_WHY } from "../../attest/index.ts";
import { verifyEvidence } from "../../attest/verify.ts";
import { attempt, replacement } from "../support/appraisal-rows.ts";
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

describe("the record of incidents", () => {
  test("I5: a library that floods one kind hides no other, and the report stays one that verifies", async () => {
    const { events, log } = slowLog();
    const record = newLaunchRecord();
    const incidents = new IncidentLog(log, record);
    const device: Incident = { what: "device", device: "usb:08e6:4433", change: "added" };
    const flood = Array.from({ length: 500 }, (_, count) => ({ ...attempt("ptrace"), count }));
    const replacements = Array.from({ length: 40 }, (_, from): Incident => ({ ...replacement, from }));
    const all = [...flood, ...Array.from({ length: 40 }, () => device), ...replacements];
    const told = await Promise.all(all.map((incident) => incidents.record(incident)));
    const counts = (["syscall", "device", "replacement"] as const).map(
      (what) => record.incidents.filter((incident) => incident.what === what).length,
    );
    expect(counts).toEqual([40, 8, 16]);
    expect(told.filter((recorded) => recorded)).toHaveLength(MAX_INCIDENTS);
    expect(events).toEqual(record.incidents.map(incidentEvent));
    const { evidence, challenge, enrolment } = await makeEvidence({ incidents: record.incidents });
    expect((await verifyEvidence(evidence, challenge, enrolment, null)).claims.asserted.incidents).toEqual(
      record.incidents,
    );
  });

  test("I5: what could not be measured is not told either", async () => {
    const record = newLaunchRecord();
    const log = { measure: () => Promise.reject(new Error("the TPM is gone")) };
    await expect(new IncidentLog(log, record).record(attempt("bpf"))).rejects.toThrow("the TPM is gone");
    expect(record.incidents).toEqual([]);
  });

  test("I10: a long reason of a replacement is cut to what a verifier reads", async () => {
    const record = newLaunchRecord();
    await new IncidentLog(slowLog().log, record).record({ ...replacement, why: "x\u{1f600}".repeat(500) });
    const [incident] = record.incidents;
    expect(incident?.what === "replacement" && incident.why.length).toBeLessThanOrEqual(MAX_WHY);
    const { evidence, challenge, enrolment } = await makeEvidence({ incidents: record.incidents });
    await expect(verifyEvidence(evidence, challenge, enrolment, null)).resolves.toBeDefined();
  });
});
