import { randomBytes } from "node:crypto";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  appraise,
  defaultAppraisalPolicy,
  defaultQuotePcrs,
  parseEvidence,
  verifyEvidence,
} from "../../attest/index.ts";
import { SCOPED_UID } from "../../vm-images/story/demo-policy.ts";
import { attest } from "../../vm-images/story/verifier.ts";
import { describeIntruder } from "../support/dev-intruder.ts";
import { type DevMachine, openDevMachine, processesOf, SHIM_UID, SHIMS } from "../support/dev-machine.ts";
import { describePinCopies } from "../support/dev-pin.ts";
import { describeGuestRoot, describeReplay } from "../support/dev-root.ts";
import { describeShims } from "../support/dev-shims.ts";
import { measured } from "../support/measured-pcrs.ts";

// One `dev` machine for all of this; each part leaves it as the next one needs it, and the last but one ends it.

let machine: DevMachine;
const dev = () => machine;
beforeAll(async () => {
  machine = await openDevMachine();
});
afterAll(() => machine?.[Symbol.asyncDispose]());

it("I12: the machine has measured in both banks what was predicted before it was booted, the agent PCR too", async () => {
  const { machine } = dev().stage;
  const verdicts = {
    sha256: dev().verdict,
    sha384: await attest(dev().running.control, dev().enrolment, machine, "sha384"),
  };
  for (const bank of ["sha256", "sha384"] as const)
    expect([bank, measured(verdicts[bank], bank)]).toEqual([bank, machine.prediction.pcrs[bank]]);
});

describe("a verifier", () => {
  it("I9: of releases refuses a dev image and a software TPM by default; the demo's policy accepts both by name", async () => {
    const challenge = { nonce: dev().verdict.nonce, bank: "sha256" as const, pcrs: defaultQuotePcrs };
    const verified = await verifyEvidence(parseEvidence(dev().verdict.report), challenge, dev().enrolment, null);
    const now = new Date();
    const strict = appraise(verified, [dev().release], defaultAppraisalPolicy, { now, challenged: now });
    expect(strict.tier).toBe("contraindicated");
    expect(strict.findings.map(({ code, got }) => [code, got])).toEqual(
      expect.arrayContaining([
        ["image-variant", "dev"],
        ["assurance", "software-tpm"],
      ]),
    );
    expect(dev().verdict.result.tier).toBe("affirming");
  });
});

describeShims(dev);
describeIntruder(dev);
describePinCopies(dev);

describe("a shim that is killed", () => {
  it("I11: is replaced by the spare, which signs the next request; I9: the next report says so, measured", async () => {
    const [active = ""] = await processesOf(dev(), SHIM_UID);
    await dev().shell.output(`kill -9 ${active}`);
    const workload = await dev().running.workload(SCOPED_UID);
    const use = { scope: "release-signing", label: "release-ec", mechanism: "CKM_ECDSA" };
    const sign = async () =>
      workload.request("sign", { ...use, data: randomBytes(32).toString("hex") }).catch(() => null);
    // the end of a process is noticed in its own time
    await expect.poll(sign, { timeout: 30_000 }).toMatchObject({ signature: expect.stringMatching(/^[0-9a-f]{128}$/) });
    workload.close();
    const { claims, result } = await attest(dev().running.control, dev().enrolment, dev().stage.machine);
    expect(claims.asserted.shims.map(({ id, role }) => [id, role])).toEqual([
      [0, "ended"],
      [1, "active"],
    ]);
    expect(claims.asserted.incidents).toMatchObject([{ what: "replacement", token: "signing", from: 0, to: 1 }]);
    expect(result.tier).toBe("warning");
    expect(result.findings.map(({ code }) => code)).toEqual(["shim-replaced"]);
    expect(await processesOf(dev(), SHIM_UID)).toHaveLength(SHIMS - 1);
  });
});

describeGuestRoot(dev);
describeReplay(dev);
