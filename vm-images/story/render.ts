import type { StoryResult, TamperedBoot } from "./story.ts";

/** What a person reads at the end: what was measured, where, how long, and what each check said. */
export function renderStory(result: StoryResult): string {
  return [
    "",
    heading("Steps"),
    ...table(
      ["step", "seconds"],
      result.timings.map(({ step, ms }) => [step, (ms / 1000).toFixed(1)]),
    ),
    "",
    heading("The clean launch"),
    ...table(["step", "what was measured", "PCR", "seconds"], launchRows(result)),
    "",
    heading("Boot PCRs (SHA-256; the SHA-384 bank was checked too)"),
    ...table(
      ["PCR", "what is in it", "predicted before boot", "quoted by the TPM"],
      result.pcrs
        .filter(({ expected }) => expected !== null)
        .map(({ pcr, expected, got }) => [
          `${pcr}`,
          PCR_CONTENT[pcr] ?? "",
          short(expected ?? ""),
          `${short(got)} ${mark(expected === got)}`,
        ]),
    ),
    "",
    heading("Agent PCR 13, event by event"),
    ...table(
      ["event", "expected", "measured"],
      result.measured.map(({ kind, name, expected, got }) => [
        `${kind} ${name}`,
        short(expected ?? "(not predicted)"),
        short(got ?? "(missing)"),
      ]),
    ),
    "",
    heading("Verifier"),
    `  verdict ${result.verdict}, assurance ${result.assurance}: the policy of this demo names software-tpm; the default policy refuses it`,
    ...result.findings.map(
      ({ tier, code, item, expected, got }) => `  ${tier}: ${code} ${item}: expected ${expected}, got ${got}`,
    ),
    `  not proven: ${result.notProven.map(({ code }) => code).join(", ")} (attest/APPRAISAL.md section 5)`,
    `  PCRs predicted before the first boot equal the quoted ones: sha256 ${mark(result.predictionHolds.sha256)}, sha384 ${mark(result.predictionHolds.sha384)}`,
    "",
    ...renderScopes(result),
    heading("PIN"),
    `  copies in all guest memory: ${result.pinCopies.memory}; in disks, cabinet and logs: ${result.pinCopies.filesAndLogs}; of the planted canary: ${result.pinCopies.canary}`,
    "",
    ...result.tampered.flatMap(renderTampered),
    heading("The same TPM with the clean disks, after that"),
    `  unsealed: ${result.cleanAgain.unsealed ? "yes" : "NO"}, verdict ${result.cleanAgain.verdict}`,
    "",
    result.ok ? "All of it held." : "NOT all of it held.",
    "",
  ].join("\n");
}

function renderScopes(result: StoryResult): string[] {
  return [
    heading("Scoped sessions"),
    ...table(
      ["client", "key", "signature over the host's nonce"],
      result.signature.by.map(({ client, key, verified }) => [
        client,
        key,
        verified ? "verified with the public key" : "DOES NOT VERIFY",
      ]),
    ),
    `  uid 2002 reached the same socket and was refused: ${result.denial.denied ? "yes" : "NO"} (CKR ${result.denial.rv}, audit record ${result.denial.auditSeq})`,
    `  the same bytes from uid ${result.denial.sameBytesSucceedFor || "2001"} give a good signature: ${result.denial.sameBytesSucceedFor > 0 ? "yes" : "NO"}`,
    "",
  ];
}

/** What each state of a launch measures; the firmware's and kernel's part is the rest of the boot. */
const MEASURED: Readonly<Record<string, readonly [what: string, pcr: string]>> = {
  measuring: ["configuration, anchors, policy, profile, library with its closure, devices", "13"],
  unsealing: ["nothing: sandbox probed, library loaded, the TPM decides", "-"],
  "logging-in": ["the tokens' identity", "13"],
  "checking-keys": ["each served key's attributes", "13"],
  capping: ["the cap", "13"],
  opening: ["nothing: what is frozen is read, the scopes' sockets are made", "-"],
};

function launchRows({ timings, launch }: StoryResult): string[][] {
  const whole = timings.find(({ step }) => step.startsWith("boot, measure"))?.ms ?? 0;
  const states = launch.filter(({ phase }) => MEASURED[phase] !== undefined);
  const agent = states.reduce((sum, { ms }) => sum + ms, 0);
  const seconds = (ms: number) => (ms / 1000).toFixed(2);
  return [
    ["boot", "firmware, UKI, kernel, command line with the root hash, initrd", "0-7, 9, 11", seconds(whole - agent)],
    ...states.map(({ phase, ms }) => [phase, ...(MEASURED[phase] ?? ["", ""]), seconds(ms)]),
  ];
}

const PCR_CONTENT: Readonly<Record<number, string>> = {
  4: "UKI and kernel",
  9: "command line, initrd",
  11: "UKI sections",
  12: "overrides (none)",
};

function renderTampered(boot: TamperedBoot): string[] {
  const answers = boot.answers.map(({ command, rc, text }) => `  ${command} answered ${rc}: ${text}`);
  const measured = boot.reasons.filter(({ code }) => /event|pcr|measure|library|launch-reason/.test(code));
  const shown = measured.length > 0 ? measured : boot.reasons;
  return [
    heading(`Tampered: ${boot.what}`),
    `  PIN ${boot.unsealed ? "RELEASED" : "stayed sealed"}, verdict ${boot.verdict}, boot PCRs ${boot.bootPcrsEqual ? "equal" : "differ"}`,
    ...answers,
    ...shown
      .slice(0, 8)
      .map(({ code, item, expected, got }) => `  ${code} ${item}: expected ${short(expected)}, got ${short(got)}`),
    ...(shown.length > 8 ? [`  and ${shown.length - 8} more (--json has all)`] : []),
    "",
  ];
}

function heading(text: string): string {
  return `${text}\n${"-".repeat(text.length)}`;
}

function table(header: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const widths = header.map((title, column) => Math.max(title.length, ...rows.map((row) => row[column]?.length ?? 0)));
  const line = (cells: readonly string[]) =>
    `  ${cells.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join("  ")}`.trimEnd();
  return [line(header), ...rows.map(line)];
}

/** A digest is told apart by its first bytes; anything else stays whole. */
function short(text: string): string {
  return /^[0-9a-f]{40,}$/.test(text) ? `${text.slice(0, 16)}...` : text;
}

function mark(holds: boolean): string {
  return holds ? "ok" : "DIFFERS";
}
