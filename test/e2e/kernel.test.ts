import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { PolicyDocument } from "../../policy/index.ts";
import type { Image } from "../../vm-images/build.ts";
import { useScopes } from "../../vm-images/story/scoped-use.ts";
import { attest, endorse, enrol } from "../../vm-images/story/verifier.ts";
import type { TpmState } from "../../vm-images/swtpm.ts";
import { bootProvisioned, codesOf, devImage, makeTpm, provision } from "../support/vm-machine.ts";

const directory = mkdtempSync(join(tmpdir(), "kernel-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const LACKS = ["landlock-ioctl-dev", "landlock-scope", "landlock-tcp", "landlock-truncate"] as const;

describe("bookworm's own kernel 6.1, whose Landlock lacks four features", () => {
  let image: Image;
  let tpm: TpmState;
  beforeAll(async () => {
    image = await devImage("cloud-6.1");
    tpm = await makeTpm(join(directory, "tpm"));
  });
  const accepting = (name: string, lacks: PolicyDocument["sandbox"]["lacks"]) =>
    provision(image, tpm, join(directory, name), { policy: (demo) => ({ ...demo, sandbox: { lacks } }) });

  it("I5: is refused by a policy that lets nothing be missing, each feature by name, before a library is loaded or a PIN is asked for", async () => {
    await bootProvisioned(await accepting("strict", []), [], async ({ launch }) => {
      expect(launch.state).toBe("refused");
      expect(new Set(codesOf(launch))).toEqual(new Set(["sandbox-weaker"]));
      const items = launch.reasons.map((reason) => (reason as { readonly item: string }).item);
      expect(items.sort()).toEqual(LACKS);
      expect(launch.phases.map(({ phase }) => phase)).not.toContain("logging-in");
    });
  });

  it("I5: serves under a policy that names all four, and every report says that the sandbox is weaker; I9: which a verifier sees", async () => {
    const machine = await accepting("weaker", [...LACKS]);
    await bootProvisioned(machine, [], async ({ running, launch }) => {
      expect(launch).toMatchObject({ state: "serving", reasons: [] });
      const enrolment = await enrol(machine.machine.name, await endorse(tpm), running.control);
      const { result, claims } = await attest(running.control, enrolment, machine.machine);
      expect([...claims.asserted.lacks].sort()).toEqual(LACKS);
      expect(claims.asserted.shims.map(({ landlock }) => landlock)).toEqual([2, 2]);
      expect(result.tier).toBe("warning");
      expect(result.findings.map(({ code, item }) => `${code} ${item}`).sort()).toEqual(
        LACKS.map((feature) => `sandbox-weaker ${feature}`),
      );
      const use = await useScopes(running, machine.machine.token);
      expect(use.signatures.every(({ verified }) => verified)).toBe(true);
    });
  });
});
