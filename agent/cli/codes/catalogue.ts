import {
  APPROVAL_CODES,
  CLIENT_CODES,
  FLEET_CODES,
  LINT_CODES,
  SERVICE_CODES,
  SPAWNER_EXITS,
  STEP_CODES,
} from "./answers.ts";
import { ERROR_FAMILIES } from "./errors.ts";
import { CABINET_CODES, DOCTOR_CODES, HOST_CODES } from "./findings.ts";
import type { Meanings } from "./meaning.ts";
import { LAUNCH_CODES, SERVING_CODES, UNSEAL_CODES } from "./reasons.ts";
import { APPRAISAL_CODES, NOT_PROVEN_CODES, VERIFY_CODES } from "./verdicts.ts";

export interface CodeSection {
  readonly title: string;
  /** Where these codes are seen. */
  readonly seen: string;
  readonly codes: Meanings;
  /** Exit code of a command that ends with it; absent where none does. */
  readonly exitOf?: (code: string) => number;
}

/** Every code that an operator can see, in the order of agent/docs/messages.md. */
export const CODE_SECTIONS: readonly CodeSection[] = [
  ...ERROR_FAMILIES.map(({ from, codes, exitOf }) => ({
    title: `Errors: ${from}`,
    seen: "At the end of an error line, `ironclaw: WHAT: expected ..., got ... (CODE)`; as a reason of a launch; in a log.",
    codes,
    exitOf,
  })),
  {
    title: "What keeps a credential sealed",
    seen: "`unseal --check`, reasons of a refused launch, reports (`launch-CODE`). The [operator guide](operator-guide.md#what-stands-in-the-way) has a section for each.",
    codes: UNSEAL_CODES,
  },
  {
    title: "Reasons of a launch",
    seen: "`status`, the console, reports (`launch-CODE`). Those that begin with `audit-` stand in the `status` of a machine that serves, too.",
    codes: LAUNCH_CODES,
  },
  {
    title: "A machine that served",
    seen: "`status` (`tokens`, `reasons`), the console, reports (`launch-CODE`).",
    codes: SERVING_CODES,
  },
  {
    title: "Reports that do not verify",
    seen: "`ironclaw verify` (`ERR_EVIDENCE_REFUSED` lists them), the history of a machine at its verifier, `ironclaw audit verify`.",
    codes: VERIFY_CODES,
  },
  {
    title: "Findings of an appraisal",
    seen: "`ironclaw verify`, results, the verifier's page and metrics.",
    codes: APPRAISAL_CODES,
  },
  { title: "What no result proves", seen: "Every result, `notProven`.", codes: NOT_PROVEN_CODES },
  {
    title: "Answers of the verifier service",
    seen: "`error.code` over HTTP; in the message of `ERR_SERVICE_REFUSED`; the service's log.",
    codes: SERVICE_CODES,
  },
  {
    title: "A machine at its verifier",
    seen: "The page, `GET /v1/machines`: its state, its flags, the events of its history.",
    codes: FLEET_CODES,
  },
  { title: "Approvals", seen: "`ironclaw approve sign`: `refused: CODE: ...`, exit code 1.", codes: APPROVAL_CODES },
  { title: "Steps of a decision", seen: "`ironclaw audit show`, `policy explain`, `policy test`.", codes: STEP_CODES },
  {
    title: "The client of a workload",
    seen: "`code` of the errors that `ironclaw-guest-agent/client` throws.",
    codes: CLIENT_CODES,
  },
  {
    title: "Warnings of a policy",
    seen: "`ironclaw policy check`; with `--strict` exit code 1, but for notes.",
    codes: LINT_CODES,
  },
  {
    title: "Findings of `doctor`",
    seen: "`ironclaw doctor`, in the second column. [doctor](../doctor/README.md#findings) says of each when it is ok, to look at, or wrong.",
    codes: DOCTOR_CODES,
  },
  {
    title: "Findings about a host",
    seen: "`ironclaw doctor --host`, in the finding `host`; `ironclaw image boot` warns of what was found. [vm-images/host](../../vm-images/host/README.md#findings) says more of each.",
    codes: HOST_CODES,
  },
  {
    title: "Findings about a cabinet",
    seen: "`ironclaw cabinet verify`; `id` with `--json`. A line that fails, or warns, says what was expected there.",
    codes: CABINET_CODES,
  },
  {
    title: "The spawner's exit codes",
    seen: "`systemctl status`, where the spawner is a service. The last line of its log says whether the agent PCR was capped.",
    codes: SPAWNER_EXITS,
  },
];

export interface FoundCode {
  readonly section: CodeSection;
  readonly code: string;
}

/** Every place of a code; a report's `launch-CODE` is the CODE of the machine, unless it is one of its own. */
export function findCode(asked: string): readonly FoundCode[] {
  const own = sectionsWith(asked);
  return own.length > 0 || !asked.startsWith("launch-") ? own : sectionsWith(asked.slice("launch-".length));
}

function sectionsWith(code: string): readonly FoundCode[] {
  return CODE_SECTIONS.filter(({ codes }) => Object.hasOwn(codes, code)).map((section) => ({ section, code }));
}

export function everyCode(): readonly string[] {
  return [...new Set(CODE_SECTIONS.flatMap(({ codes }) => Object.keys(codes)))].sort();
}
