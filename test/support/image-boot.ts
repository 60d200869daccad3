import { createHash, createPublicKey, randomBytes, verify } from "node:crypto";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
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
import { readRecipe } from "../../vm-images/recipes.ts";
import { SCOPED_UID } from "../../vm-images/story/demo-policy.ts";
import type { RunningMachine } from "../../vm-images/story/running.ts";
import { attest, endorse, enrol, type Verdict } from "../../vm-images/story/verifier.ts";
import type { ImageVariant } from "../../vm-images/variants.ts";
import { SWITCHES } from "./guest-switches.ts";
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

/** A recipe of one's own: the cloud image with one more workload, whose program comes with the recipe, and reads files. */
async function ownRecipe(): Promise<string> {
  const folder = join(directory, "own");
  const port = "workload.3000";
  const program = "/usr/lib/payer/echo.cjs";
  mkdirSync(join(folder, "root/usr/lib/payer"), { recursive: true });
  const { workloads } = await readRecipe("cloud");
  const payer = { name: "payer", uid: 3000, port, argv: ["/usr/bin/node", program, `/dev/virtio-ports/${port}`] };
  writeFileSync(
    join(folder, "image.json"),
    JSON.stringify({ version: 1, like: "cloud", workloads: [...workloads, payer] }),
  );
  writeFileSync(
    join(folder, "root", program),
    `const { openSync, readFileSync, readSync, writeSync } = require("node:fs");
    const port = openSync(process.argv[2], "r+");
    const bytes = Buffer.alloc(4096);
    setInterval(() => {
      const length = readSync(port, bytes);
      if (length === 0) return;
      const { id, paths } = JSON.parse(bytes.toString("utf8", 0, length));
      const contents = paths.map((path) => readFileSync(path, "utf8").trim());
      writeSync(port, JSON.stringify({ id, ok: true, uid: process.getuid(), contents }) + "\\n");
    }, 100);`,
  );
  return folder;
}

/** A variant, and a recipe of the tree or `own`, one that the test writes. */
export type BootedImage = readonly [variant: ImageVariant, recipe: string];

/** Boots each image once, and holds what it measured against what was predicted. */
export function describeImages(images: readonly BootedImage[]): void {
  describe.each(images)("the image %s of recipe %s", (variant, recipe) => {
    it("I12: measures in both banks what was predicted before it was booted, the agent PCR too, and signs with 256 MiB of memory; I9: a verifier of releases takes it if it is one", async () => {
      const place = join(directory, `${variant}-${recipe}`);
      const tpm = await makeTpm(join(place, "tpm"));
      const lacks = recipe === "cloud-6.1" ? LACKS_OF_6_1 : [];
      const provisioned = await provision(
        await imageOf(variant, recipe === "own" ? await ownRecipe() : recipe),
        tpm,
        place,
        {
          policy: (demo) => ({ ...demo, sandbox: { lacks: [...lacks] } }),
        },
      );
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
        if (recipe === "own") {
          const payer = await running.workload(3000);
          const paths = Object.keys(SWITCHES);
          const answer = await payer.request("read", { paths }).finally(() => payer.close());
          expect(answer).toMatchObject({ uid: 3000, contents: Object.values(SWITCHES) });
        }
        expect(await signedNonce(running, machine.token.keys["release-ec"] ?? new Uint8Array())).toBe(true);
      });
    });
  });
}
