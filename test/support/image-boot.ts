import { createHash, createPublicKey, randomBytes, verify } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import {
  appraise,
  defaultAppraisalPolicy,
  defaultQuotePcrs,
  makeAppraisalPolicy,
  parseEvidence,
  verifyEvidence,
} from "../../attest/index.ts";
import { parseAnchors, verifyRelease } from "../../policy/index.ts";
import { SCOPED_UID } from "../../vm-images/story/demo-policy.ts";
import type { RunningMachine } from "../../vm-images/story/running.ts";
import { attest, endorse, enrol, type Verdict } from "../../vm-images/story/verifier.ts";
import type { ImageVariant } from "../../vm-images/variants.ts";
import { LACKS_OF_6_1 } from "./kernel-lacks.ts";
import { measured } from "./measured-pcrs.ts";
import { bootProvisioned, imageOf, makeTpm, type Provisioned, provision } from "./vm-machine.ts";

/** A machine needs no more, whatever its image. */
const SMALL = 256;
/** The default appraisal policy, but for what a software TPM cannot have. */
const RELEASES_ONLY = makeAppraisalPolicy({
  ...defaultAppraisalPolicy.document,
  ...{ minAssurance: "software-tpm", firmware: "waived" },
});
const directory = mkdtempSync(join(tmpdir(), "images-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

async function signedNonce(running: RunningMachine, spki: Uint8Array): Promise<boolean> {
  const nonce = randomBytes(32);
  const workload = await running.workload(SCOPED_UID);
  try {
    const digest = createHash("sha256").update(nonce).digest("hex");
    const use = { scope: "release-signing", mechanism: "CKM_ECDSA" };
    const { signature: native } = await workload.request("native-sign", { ...use, digest });
    const { signature: stock } = await workload.request("sign", { ...use, label: "release-ec", data: digest });
    const key = createPublicKey({ key: Buffer.from(spki), format: "der", type: "spki" });
    return [native, stock].every((signature) =>
      verify("sha256", nonce, { key, dsaEncoding: "ieee-p1363" }, Buffer.from(String(signature), "hex")),
    );
  } finally {
    workload.close();
  }
}

/** What a verifier of releases finds, by code. */
async function strictly({ report, nonce }: Verdict, { machine }: Provisioned, enrolment: Parameters<typeof attest>[1]) {
  const challenge = { nonce, bank: "sha256" as const, pcrs: defaultQuotePcrs };
  const verified = await verifyEvidence(parseEvidence(report), challenge, enrolment, null);
  const release = await verifyRelease(machine.release, parseAnchors(machine.anchors).releaseRoot);
  const now = new Date();
  return appraise(verified, [release], RELEASES_ONLY, { now, challenged: now });
}

/** A variant, and a recipe of the tree. */
export type BootedImage = readonly [variant: ImageVariant, recipe: string];

/** Boots each image once, and holds what it measured against what was predicted. */
export function describeImages(images: readonly BootedImage[]): void {
  describe.each(images)("the image %s of recipe %s", (variant, recipe) => {
    it("I12: measures in both banks what was predicted before it was booted, the agent PCR too, and signs with 256 MiB of memory; I9: a verifier of releases takes it if it is one", async () => {
      const place = join(directory, `${variant}-${recipe}`);
      const tpm = await makeTpm(join(place, "tpm"));
      const lacks = recipe === "cloud-6.1" ? LACKS_OF_6_1 : [];
      const provisioned = await provision(await imageOf(variant, recipe), tpm, place, {
        policy: (demo) => ({ ...demo, sandbox: { lacks: [...lacks] } }),
      });
      const { machine } = provisioned;
      await bootProvisioned(provisioned, { memoryMiB: SMALL }, async ({ running, launch }) => {
        expect(launch).toMatchObject({ state: "serving", reasons: [] });
        console.info(`${variant} ${recipe}: ${launch.phases.map(({ phase, ms }) => `${phase} ${ms} ms`).join(", ")}`);
        const enrolment = await enrol(machine.name, await endorse(tpm), running.control);
        const verdicts = {
          sha256: await attest(running.control, enrolment, machine),
          sha384: await attest(running.control, enrolment, machine, "sha384"),
        };
        for (const bank of ["sha256", "sha384"] as const)
          expect([bank, measured(verdicts[bank], bank)]).toEqual([bank, machine.prediction.pcrs[bank]]);
        expect(verdicts.sha256.claims.asserted.image).toEqual({ id: provisioned.image.manifest.id, variant });
        const strict = await strictly(verdicts.sha256, provisioned, enrolment);
        const refusal = strict.findings.filter(({ code }) => code === "image-variant").map(({ got }) => got);
        expect(refusal).toEqual(variant === "release" ? [] : [variant]);
        expect(strict.tier).toBe(
          variant !== "release" ? "contraindicated" : recipe === "cloud-6.1" ? "warning" : "affirming",
        );
        expect(await signedNonce(running, machine.token.keys["release-ec"] ?? new Uint8Array())).toBe(true);
      });
    });
  });
}
