// node example.mjs REPORT NONCE ENROLMENT ANCHORS RELEASE...: verifies a report and prints the verdict. Exit code 0: affirming
// or a warning, 1: contraindicated or refused. Everything but the last function also runs in a browser.
import {
  appraise,
  defaultAppraisalPolicy,
  defaultQuotePcrs,
  EvidenceRefused,
  explain,
  explainReasons,
  fromHex,
  parseAnchors,
  parseEnrolment,
  parseEvidence,
  verifyEvidence,
  verifyRelease,
} from "ironclaw-verifier";

/**
 * What the verifier holds is read first, what the machine sent last.
 *
 * @param {object} input Files as they are, `Uint8Array` each
 * @param {Uint8Array} input.report
 * @param {string} input.nonce 32 bytes in hexadecimal, made for this machine and used once: whoever calls this keeps book of it
 * @param {Date} input.challenged when it was made
 * @param {Uint8Array} input.enrolment
 * @param {Uint8Array} input.anchors
 * @param {Uint8Array[]} input.releases
 * @param {Date} [input.now]
 */
export async function judge({ report, nonce, challenged, enrolment, anchors, releases, now = new Date() }) {
  const { releaseRoot } = parseAnchors(anchors);
  const references = await Promise.all(releases.map((release) => verifyRelease(release, releaseRoot, now)));
  const challenge = { nonce: fromHex(nonce), bank: "sha256", pcrs: defaultQuotePcrs };
  try {
    // The first report of this machine; later ones are compared with `continuity` of the one before, which a verifier keeps.
    const verified = await verifyEvidence(parseEvidence(report), challenge, parseEnrolment(enrolment), null);
    const result = appraise(verified, references, defaultAppraisalPolicy, { now, challenged });
    return { tier: result.tier, text: explain(result) };
  } catch (error) {
    if (!(error instanceof EvidenceRefused)) throw error;
    return { tier: "refused", text: explainReasons(error.reasons) };
  }
}

async function main() {
  const { readFile } = await import("node:fs/promises");
  const [report, nonce, enrolment, anchors, ...releases] = process.argv.slice(2);
  const read = async (path) => new Uint8Array(await readFile(path));
  const { tier, text } = await judge({
    ...{ report: await read(report), nonce, challenged: new Date() },
    ...{ enrolment: await read(enrolment), anchors: await read(anchors) },
    releases: await Promise.all(releases.map(read)),
  });
  console.log(`${tier}\n${text}`);
  process.exitCode = tier === "affirming" || tier === "warning" ? 0 : 1;
}

if (globalThis.process?.argv[1]?.endsWith("example.mjs")) await main();
