import type { Incident, Reason, Tpm } from "../../attest/index.ts";
import type { Release, SandboxFeature } from "../../policy/index.ts";
import type { Credential, MachineTpm, StandbyUnsealer, Store, TpmAnswer, UnsealAnswer } from "../../seal/index.ts";
import type { AgentConfig } from "../config.ts";
import { AgentError } from "../errors.ts";
import type { Shim } from "../shim-client.ts";
import type { ProbeAttempt } from "../shim-replies.ts";
import type { AgentLoss } from "../shims/agent-loss.ts";
import type { AttemptCounts } from "../shims/attempts.ts";
import type { Spawner } from "../spawner-client.ts";
import type { ReadInputs } from "./inputs.ts";
import type { ServedKey, TokenIdentity } from "./keys.ts";
import type { MeasurementLog } from "./measurement-log.ts";
import { type LaunchState, mayFollow } from "./state.ts";

/** What the launch needs from outside; everything privileged is behind one of these. */
export interface LaunchEnvironment {
  readonly config: AgentConfig;
  readonly configBytes: Uint8Array;
  readonly tpm: Tpm;
  /** The connection behind `tpm`, for what sealing asks of the TPM. */
  readonly tss: MachineTpm["tss"];
  /** What the machine keeps from boot to boot. */
  readonly store: Store;
  /** The agent of the boot before was lost. */
  readonly agentLoss: AgentLoss | null;
  /** Milliseconds since 1970. */
  now(): number;
  readonly log: MeasurementLog;
  readonly spawner: Spawner;
  /** For the first token's PIN. The launch ends it. */
  readonly unsealer: StandbyUnsealer;
  readonly inputs: ReadInputs;
  readonly devices: readonly string[];
  /** @param onAttempt called for each attempt that the kernel shows and that is recorded */
  openShim(requestFd: number, onAttempt: () => void): Promise<Shim>;
  closeFd(fd: number): void;
  /** Opens the state volume with the key that `deliver` has the unsealer write into the descriptor it is given. */
  readonly stateVolume: StateVolume | null;
  /** Where a file of the root really lies: the spawner copies regular files only, the loader asks for links. */
  realPath(path: string): string;
}

/** The encrypted volume with the audit log; null where the machine has none by its measured configuration. */
export interface StateVolume {
  /** @throws AgentError ERR_STATE_VOLUME, ERR_AUDIT_MALFORMED; whatever `deliver` throws */
  open(deliver: (sink: number) => Promise<void>): Promise<void>;
  /** Once the launch serves: the volume remembers how far the TPM's counters have come. */
  settle(): Promise<void>;
}

/** A shim that was started. Whether it still runs, and as what, is asked when somebody wants to know. */
export interface RecordedShim {
  readonly id: number;
  /** The policy's name of its token. */
  readonly token: string;
  /** Whether it is to serve from the start. */
  readonly serves: boolean;
  /** Version of Landlock that its sandbox was made with. */
  readonly landlock: number;
  /** What the library has tried so far. */
  attempts(): AttemptCounts;
}

/** What is known about the launch, for the report: filled as far as the launch came. */
export interface LaunchRecord {
  state: LaunchState;
  /** Ascending by id. */
  shims: readonly RecordedShim[];
  probe: readonly ProbeAttempt[];
  /** System call to count: what the kernel showed the agent while the first shim's probe ran. */
  witnessed: Readonly<Record<number, number>>;
  /** Those that took their PIN, in the order of their names. */
  tokens: readonly TokenIdentity[];
  keys: readonly ServedKey[];
  answers: readonly TpmAnswer[];
  /** Those of them that are measured, in the log's order. */
  incidents: readonly Incident[];
  /** What the sandbox of this kernel lacks, where the policy does without. */
  lacks: readonly SandboxFeature[];
  /** The release that the measurements belong to, or come nearest to. */
  release?: Release;
  /** What was unsealed, by name. */
  unsealed: readonly Credential[];
  /** What a launch that serves does last is done, and this went wrong with it. */
  settled?: readonly Reason[];
  /**
   * Every state so far with the moment it was entered, in milliseconds since the process began; first its own start. Behind the cap a launch is still
   * `capping` while its doors are opened: that is told apart here.
   */
  phases: readonly { readonly kind: LaunchState["kind"] | "loading" | "opening"; readonly at: number }[];
}

/** A record of a launch that has not begun: what was before is the start of Node and of the program. */
export function newLaunchRecord(): LaunchRecord {
  return {
    state: { kind: "booted" },
    shims: [],
    probe: [],
    witnessed: {},
    tokens: [],
    keys: [],
    answers: [],
    incidents: [],
    lacks: [],
    unsealed: [],
    phases: [
      { kind: "loading", at: 0 },
      { kind: "booted", at: performance.now() },
    ],
  };
}

/** Thrown inside the launch when it has to end refused; carries every reason found so far. */
export class Refusal extends Error {
  readonly reasons: readonly Reason[];
  constructor(reasons: readonly Reason[]) {
    super("launch refused");
    this.reasons = reasons;
  }
}

/** @throws AgentError ERR_LAUNCH for a step back */
export function enter(record: LaunchRecord, state: LaunchState): void {
  if (!mayFollow(record.state.kind, state.kind)) {
    throw new AgentError("ERR_LAUNCH", "launch state", {
      expected: `a state after ${record.state.kind}`,
      got: state.kind,
    });
  }
  record.state = state;
  begin(record, state.kind);
}

/** A phase by itself: `enter` has one for each state. */
export function begin(record: LaunchRecord, kind: LaunchRecord["phases"][number]["kind"]): void {
  record.phases = [...record.phases, { kind, at: performance.now() }];
}

/** Says more about a launch that has ended: without effect on any other. */
export function addReasons(record: LaunchRecord, reasons: readonly Reason[]): void {
  const { state } = record;
  if ("reasons" in state) record.state = { ...state, reasons: [...state.reasons, ...reasons] };
}

/** The TPM's own words in what the unsealer said. */
export function answersOf(answer: UnsealAnswer): readonly TpmAnswer[] {
  if (answer.kind === "refused") return answer.answers;
  return answer.kind === "failed" ? [{ command: answer.command, rc: answer.rc, text: answer.text }] : [];
}
