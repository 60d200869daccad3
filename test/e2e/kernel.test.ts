import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Enrolment } from "../../attest/index.ts";
import { type PolicyDocument, toHex, utf8 } from "../../policy/index.ts";
import type { Image } from "../../vm-images/build.ts";
import { SCOPED_UID } from "../../vm-images/story/demo-policy.ts";
import type { MachineDifference } from "../../vm-images/story/machine.ts";
import type { RunningMachine } from "../../vm-images/story/running.ts";
import { useScopes } from "../../vm-images/story/scoped-use.ts";
import { PLACES } from "../../vm-images/story/story.ts";
import { attest, endorse, enrol } from "../../vm-images/story/verifier.ts";
import type { TpmState } from "../../vm-images/swtpm.ts";
import { LACKS_OF_6_1 } from "../support/kernel-lacks.ts";
import { moduleOverSofthsm } from "../support/over-softhsm.ts";
import {
  bootProvisioned,
  codesOf,
  devImage,
  makeTpm,
  type Provisioned,
  provision,
  startProvisioned,
} from "../support/vm-machine.ts";

const directory = mkdtempSync(join(tmpdir(), "kernel-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

type Lacks = PolicyDocument["sandbox"]["lacks"];
/** turncoat.c */
const TRIGGER = "open, sesame: ...";
const LACKS = LACKS_OF_6_1;

describe("bookworm's own kernel 6.1, whose Landlock lacks four features", () => {
  let image: Image;
  let tpm: TpmState;
  beforeAll(async () => {
    image = await devImage("cloud-6.1");
    tpm = await makeTpm(join(directory, "tpm"));
  });
  const provisioned = (name: string, lacks: Lacks, differs: MachineDifference = {}) =>
    provision(image, tpm, join(directory, name), { ...differs, policy: (demo) => ({ ...demo, sandbox: { lacks } }) });

  it("I5: is refused by a policy that lets nothing be missing, each feature by name, before a library is loaded or a PIN is asked for", async () => {
    await bootProvisioned(await provisioned("strict", []), {}, async ({ launch }) => {
      expect(launch.state).toBe("refused");
      expect(new Set(codesOf(launch))).toEqual(new Set(["sandbox-weaker"]));
      const items = launch.reasons.map((reason) => (reason as { readonly item: string }).item);
      expect(items.sort()).toEqual(LACKS);
      expect(launch.phases.map(({ phase }) => phase)).not.toContain("logging-in");
    });
  });

  describe("under a policy that names all four, with a library that a request can turn", () => {
    let machine: Provisioned;
    let running: RunningMachine;
    let enrolment: Enrolment;
    const report = () => attest(running.control, enrolment, machine.machine);
    const sign = async (data: Uint8Array) => {
      const workload = await running.workload(SCOPED_UID);
      const use = { scope: "release-signing", label: "release-ec", mechanism: "CKM_ECDSA" };
      return workload.request("sign", { ...use, data: toHex(data) }).finally(() => workload.close());
    };

    beforeAll(async () => {
      const module = await moduleOverSofthsm("turncoat", { directory, cacheDirectory: PLACES.cache });
      machine = await provisioned("weaker", LACKS, { module });
      const launched = await startProvisioned(machine, {});
      running = launched.running;
      expect(launched.launch).toMatchObject({ state: "serving", reasons: [] });
      enrolment = await enrol(machine.machine.name, await endorse(tpm), running.control);
    });
    afterAll(() => running?.stop());

    it("I5: serves, and every report says that the sandbox is weaker; I9: which a verifier sees", async () => {
      const { result, claims } = await report();
      expect([...claims.asserted.lacks].sort()).toEqual(LACKS);
      expect(claims.asserted.shims.map(({ landlock }) => landlock)).toEqual([2, 2]);
      expect(result.tier).toBe("warning");
      expect(result.findings.map(({ code, item }) => `${code} ${item}`).sort()).toEqual(
        LACKS.map((feature) => `sandbox-weaker ${feature}`),
      );
      const use = await useScopes(running, machine.machine.token);
      expect(use.signatures.every(({ verified }) => verified)).toBe(true);
    });

    it("I5: denies what the turned library tries, and stops its token; I9: the next report shows each call, measured", async () => {
      // it signs as if nothing had been, but its token may have been stopped by then
      await sign(utf8(TRIGGER.padEnd(32, "."))).catch(() => null);
      await expect.poll(async () => (await running.control.status())["state"], { timeout: 60_000 }).toBe("stopped");
      await expect(sign(utf8("".padEnd(32, ".")))).rejects.toThrow(/CKR_(DEVICE_ERROR|FUNCTION_REJECTED)/);
      const { result, claims } = await report();
      const shown = claims.asserted.incidents.map((incident) =>
        incident.what === "syscall" ? incident.syscall : incident.what,
      );
      // the end may come between two of them
      expect(shown).toEqual(["execve", "socket", "process_vm_readv"].slice(0, Math.max(1, shown.length)));
      expect(claims.asserted.incidents[0]).toMatchObject({ token: "signing", shim: 0, nr: 59, count: 1 });
      expect(claims.asserted.shims.map(({ role }) => role)).toEqual(["ended", "ended"]);
      expect(result.tier).toBe("contraindicated");
      expect(result.findings.map(({ code }) => code)).toEqual(expect.arrayContaining(["violations", "launch-state"]));
    });
  });
});
