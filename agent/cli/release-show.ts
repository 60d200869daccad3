import { keyIdOf, parseAnchors, type Release, verifyRelease } from "../../policy/index.ts";
import type { Command } from "./command.ts";
import { readInput } from "./files.ts";
import { answer, JSON_OPTION } from "./output.ts";

export const command: Command = {
  summary: "verify a release and say what it lets unseal: image, dates, PCRs, events and who signed",
  positionals: ["RELEASE"],
  options: {
    anchors: { type: "string", value: "FILE", help: "trust anchors: who may sign releases", required: true },
    json: JSON_OPTION,
  },
  examples: ["ironclaw release show release.json --anchors anchors.json"],
  run: async (input, io) => {
    const { releaseRoot } = parseAnchors(await readInput(input.text("anchors"), "anchors"));
    const release = await verifyRelease(await readInput(input.positional(0), "release"), releaseRoot);
    const { name, image, epoch, notBefore, notAfter, pcrs, events } = release;
    const signer = { releaseKey: keyIdOf(release.releaseKey), releaseRoot: keyIdOf(releaseRoot) };
    const facts = { verified: true, name, image, epoch, notBefore, notAfter, ...signer, pcrs, events };
    answer(input, io, facts, renderRelease(release, signer));
    return 0;
  },
};

function renderRelease(release: Release, signer: { releaseKey: string; releaseRoot: string }): string {
  const { name, image, epoch, notBefore, notAfter, pcrs, events } = release;
  return [
    `release ${name}: the signatures verify`,
    `  image     ${image.id} (${image.variant}), epoch ${epoch}`,
    `  valid     ${notBefore} to ${notAfter}`,
    `  signed by ${signer.releaseKey}`,
    `  under     ${signer.releaseRoot}`,
    "",
    "a PIN sealed to this root is released only while these PCRs (SHA-256) hold:",
    ...Object.entries(pcrs.sha256).map(([pcr, value]) => `  ${pcr.padStart(3)}  ${value}`),
    "",
    "PCR 13 is the agent's; it holds after these events, in this order:",
    ...events.map((event) => `  ${event.sha256}  ${event.kind} ${event.name}`),
  ].join("\n");
}
