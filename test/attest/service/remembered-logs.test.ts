import { describe, expect, test } from "vitest";
import { defaultAppraisalPolicy, encodeEvidence, type KnownLog, launchEvent } from "../../../attest/index.ts";
import { judge } from "../../../attest/service/judge.ts";
import { RememberedLogs } from "../../../attest/service/remembered-logs.ts";
import { inTime, makeEvidence, makeReference, servingEvents } from "../../support/evidence-maker.ts";

const log = (bytes: number): KnownLog => ({ bytes: new Uint8Array(bytes), records: [], pcrs: new Map() });
const machine = (akName: string) => ({ akName });
const caps = { releases: 1 << 20, machines: 1000 };

describe("the logs that a judging thread remembers", () => {
  test("I10: take so many bytes, and the ones that were needed last are kept", () => {
    const logs = new RememberedLogs([], caps);
    const [a, b, c] = [log(400), log(400), log(400)];
    logs.remember(machine("a"), { knownLog: a, logBegins: null });
    logs.remember(machine("b"), { knownLog: b, logBegins: null });
    logs.remember(machine("a"), { knownLog: log(410), logBegins: a });
    logs.remember(machine("c"), { knownLog: c, logBegins: null });
    expect(["a", "b", "c"].map((name) => logs.of(machine(name)))).toEqual([[a], [], [c]]);
    expect(logs.size).toBe(800);
    logs.remember(machine("d"), { knownLog: log(1001), logBegins: null });
    expect(logs.size).toBeLessThanOrEqual(1000);
    expect(logs.of(machine("d"))).toEqual([]);
  });

  test("I10: a log that grows keeps none of its predecessors", () => {
    const logs = new RememberedLogs([], caps);
    const first = log(400);
    logs.remember(machine("a"), { knownLog: first, logBegins: null });
    logs.remember(machine("a"), { knownLog: log(500), logBegins: first });
    expect(logs.of(machine("a"))).toEqual([first]);
    logs.remember(machine("a"), { knownLog: log(501), logBegins: first });
    expect({ known: logs.of(machine("a")), size: logs.size }).toEqual({ known: [], size: 0 });
    const rebooted = log(300);
    logs.remember(machine("a"), { knownLog: first, logBegins: null });
    logs.remember(machine("a"), { knownLog: rebooted, logBegins: null });
    expect({ known: logs.of(machine("a")), size: logs.size }).toEqual({ known: [rebooted], size: 300 });
  });

  test("I10: of more releases than there is room for the later ones are known", () => {
    const reference = makeReference();
    const [{ bytes } = log(0)] = new RememberedLogs([reference]).of(machine("a"));
    const known = new RememberedLogs([reference, reference, reference], { ...caps, releases: 2 * bytes.length }).of(
      machine("a"),
    );
    expect(known.map((one) => one.bytes.length)).toEqual([bytes.length, bytes.length]);
  });

  test("I9: change no verdict: reports of one machine, its log longer each time, and one with an event that nothing extended", async () => {
    const logs = new RememberedLogs([makeReference()]);
    const judgement = { references: [makeReference()], policy: defaultAppraisalPolicy };
    const events = [...servingEvents()];
    for (let report = 0; report < 4; report++) {
      const { evidence, challenge, enrolment } = await makeEvidence({ events });
      const order = {
        evidence: encodeEvidence(evidence),
        challenge,
        enrolment,
        previous: null,
        now: inTime,
        challenged: inTime,
      };
      const expected = await judge(order, judgement, new RememberedLogs([]));
      expect(expected).toMatchObject({ kind: "judged", result: { tier: "affirming" } });
      expect(await judge(order, judgement, logs)).toEqual(expected);
      expect(await judge(order, judgement, logs)).toEqual(expected);
      const unmeasured = await makeEvidence({
        events: [...events, launchEvent("anchor", "made up", new Uint8Array(32))],
      });
      const forged = { ...order, evidence: encodeEvidence({ ...evidence, agentLog: unmeasured.evidence.agentLog }) };
      const refused = await judge(forged, judgement, logs);
      expect(refused).toEqual(await judge(forged, judgement, new RememberedLogs([])));
      expect(refused).toMatchObject({ kind: "refused", authentic: false });
      for (let more = 0; more < 3; more++)
        events.push(launchEvent("anchor", `audit record ${report}${more}`, new Uint8Array(32).fill(more)));
    }
  });
});
