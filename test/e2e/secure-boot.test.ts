import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { parsePe } from "../../attest/index.ts";
import { buildImage, type Image } from "../../vm-images/build.ts";
import { buildEsp } from "../../vm-images/esp.ts";
import { openSecureBootKeys, type SecureBootKeys, signUki } from "../../vm-images/secure-boot.ts";
import { PLACES } from "../../vm-images/story/story.ts";
import { attest, endorse, enrol } from "../../vm-images/story/verifier.ts";
import { cli } from "../support/cli.ts";
import { firmwareSays } from "../support/firmware-console.ts";
import { SWITCHES } from "../support/guest-switches.ts";
import { measured } from "../support/measured-pcrs.ts";
import { ownRecipe, readByPayer } from "../support/own-recipe.ts";
import { bootProvisioned, imageOf, makeTpm, provision } from "../support/vm-machine.ts";

// The image is one of a recipe of one's own.

const directory = mkdtempSync(join(tmpdir(), "sb-"));
const at = (name: string) => join(directory, name);
afterAll(() => rmSync(directory, { recursive: true, force: true }));

let keys: SecureBootKeys;
let recipe: string;
let unsigned: Image;
let image: Image;
const signedImage = (outDirectory: string) =>
  buildImage({
    ...{ variant: "release", recipe, base: unsigned, secureBoot: keys, outDirectory },
    cacheDirectory: PLACES.cache,
  });
beforeAll(async () => {
  keys = await openSecureBootKeys(at("keys"));
  recipe = await ownRecipe(at("own"));
  unsigned = await imageOf("release", recipe);
  image = await signedImage(at("image"));
});

describe("an image that is signed with one's own keys", () => {
  it("I12: is the same each time it is signed with them, and but for the signature the unsigned one", async () => {
    const again = await signedImage(at("again"));
    expect(again.manifest).toEqual(image.manifest);
    const [signed, plain] = [new Uint8Array(readFileSync(image.uki)), new Uint8Array(readFileSync(unsigned.uki))];
    const { certificateSize, checksumOffset, certificateEntryOffset } = parsePe(signed);
    expect(certificateSize).toBeGreaterThan(1000);
    const body = (bytes: Uint8Array) =>
      Uint8Array.from(bytes.subarray(0, plain.length))
        .fill(0, checksumOffset, checksumOffset + 4)
        .fill(0, certificateEntryOffset, certificateEntryOffset + 8);
    expect(Buffer.compare(body(signed), body(plain))).toBe(0);
    expect(signed.length).toBe(plain.length + certificateSize);
  });

  it("I12: `image predict` says of its folder what its manifest and a release say, PCR 7 too, and nothing of its kernel image alone", async () => {
    const { prediction, secureBoot } = image.manifest;
    expect(JSON.parse((await cli(["image", "predict", image.directory, "--json"])).out)).toEqual({
      sha256: { ...prediction.sha256, 7: secureBoot?.pcr7.sha256 },
      sha384: { ...prediction.sha384, 7: secureBoot?.pcr7.sha384 },
    });
    expect(await cli(["image", "predict", image.uki])).toMatchObject({
      code: 2,
      err: expect.stringContaining("expected the directory of a signed image"),
    });
  });

  it("I12: measures in both banks what was predicted, PCR 7 and the agent PCR too, and serves; I9: the verifier compares PCR 7", async () => {
    const tpm = await makeTpm(at("tpm"));
    const provisioned = await provision(image, tpm, at("machine"), {});
    const { machine } = provisioned;
    expect(machine.prediction.pcrs.sha256).toMatchObject({ 7: image.manifest.secureBoot?.pcr7.sha256 });
    expect(machine.prediction.pcrs).toMatchObject(
      JSON.parse((await cli(["image", "predict", image.directory, "--json"])).out),
    );
    await bootProvisioned(provisioned, {}, async ({ running, launch }) => {
      expect(launch).toMatchObject({ state: "serving", reasons: [] });
      const enrolment = await enrol(machine.name, await endorse(tpm), running.control);
      for (const bank of ["sha256", "sha384"] as const) {
        const verdict = await attest(running.control, enrolment, machine, bank);
        const { result } = verdict;
        const pcr7 = result.pcrs.find(({ pcr }) => pcr === 7)?.got;
        expect([bank, { 7: pcr7, ...measured(verdict, bank) }]).toEqual([bank, machine.prediction.pcrs[bank]]);
        expect(result.pcrs.find(({ pcr }) => pcr === 7)?.expected).toBe(machine.prediction.pcrs[bank]["7"]);
        expect(result.tier).toBe("affirming");
      }
      // Its own workload is there, and the kernel of a release is what it is to be.
      expect(await readByPayer(running, Object.keys(SWITCHES))).toEqual(Object.values(SWITCHES));
    });
  });
});

describe("a machine whose firmware has these keys", () => {
  it("I2: does not start the unsigned image", async () => {
    const said = await firmwareSays(image, unsigned.esp, directory);
    expect(said).toMatch(/BdsDxe: failed to load Boot\d+ .*: Access Denied/);
    // The firmware's own shell is what it tries next.
    expect(said).not.toMatch(/BdsDxe: starting Boot\d+ "UEFI|Linux version/);
  });

  it("I2: does not start one that somebody else signed", async () => {
    const stranger = await openSecureBootKeys(at("stranger"));
    await buildEsp(await signUki(new Uint8Array(readFileSync(unsigned.uki)), stranger), at("stranger.img"));
    expect(await firmwareSays(image, at("stranger.img"), directory)).toMatch(
      /BdsDxe: failed to load Boot\d+ .*: Access Denied/,
    );
  });
});
