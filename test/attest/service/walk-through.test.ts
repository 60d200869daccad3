import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { encodeAppraisalPolicy } from "../../../attest/index.ts";
import { DEMO_APPRAISAL } from "../../../vm-images/story/verifier.ts";
import { openStandIn } from "../../support/cli-layout.ts";
import { startSwtpm } from "../../support/swtpm.ts";
import { blocksUnder, CLI_README, layOutAll, runBlock, startCommand } from "../../support/walk-through.ts";

const README = resolve(import.meta.dirname, "../../../attest/service/README.md");
const directory = mkdtempSync(join(tmpdir(), "service-walk-"));
const at = (name: string) => join(directory, name);
const started: AsyncDisposable[] = [];

beforeAll(async () => {
  const tpm = await startSwtpm();
  started.push(tpm);
  const image = await layOutAll(directory, tpm);
  for (const block of await blocksUnder(CLI_README, "### Before the first boot")) await runBlock(directory, block);
  started.push(await openStandIn(directory, tpm, image));
  copyFileSync(at("ek-anchors.json"), at("endorsement.json"));
}, 300_000);
afterAll(async () => {
  for (const each of started.reverse()) await each[Symbol.asyncDispose]();
  rmSync(directory, { recursive: true, force: true });
});

/** The lines of a block, the last of which does not end by itself. */
function split(block: string): readonly [prepare: string, runs: string] {
  const lines = block.trim().split("\n");
  return [lines.slice(0, -1).join("\n"), lines.at(-1) ?? ""];
}

describe("attest/service/README.md, block by block as it stands there", () => {
  it("I9: a service is laid out, takes a machine with an operator's token, and judges its reports", async () => {
    const [service = "", machine = ""] = await blocksUnder(README, "## Run it");
    const [prepare, serve] = split(service);
    const { stdout: checked } = await runBlock(directory, prepare);
    expect(checked).toMatch(/first/); // the release that was copied in

    // What the document leaves to its reader: another port, and a policy that takes a demo image on a software TPM.
    const config = JSON.parse(readFileSync(at("verifier/verifier.json"), "utf8"));
    writeFileSync(at("verifier/verifier.json"), JSON.stringify({ ...config, listen: { ...config.listen, port: 0 } }));
    writeFileSync(at("verifier/appraisal.json"), encodeAppraisalPolicy(DEMO_APPRAISAL.document));
    const serving = await startCommand(directory, serve);
    started.push(serving);
    const [address = ""] = /127\.0\.0\.1:\d+/.exec(serving.first) ?? [];
    expect(serving.first).toContain(`verifier service at ${address}`);
    const url = `http://${address}`;

    const placeholder = "https://verifier:8443 --ca ca.pem";
    expect(machine.split(placeholder)).toHaveLength(4);
    const [enrol, push] = split(machine.replaceAll(placeholder, url));
    await runBlock(directory, enrol);
    const pushing = await startCommand(directory, push);
    started.push(pushing);
    expect(pushing.first).toMatch(/^affirming; next in \d+ s$/m);

    const token = readFileSync(at("verifier/viewer.token"), "utf8").trim();
    const answer = await fetch(`${url}/v1/machines`, { headers: { authorization: `Bearer ${token}` } });
    expect(await answer.json()).toMatchObject([{ name: "vm-1", state: "affirming", release: "first" }]);
  }, 300_000);
});
