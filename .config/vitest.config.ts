import { availableParallelism } from "node:os";
import { resolve } from "node:path";
import { defineConfig } from "vitest/config";

const root = resolve(import.meta.dirname, "..");

/** Tests that drive whole programs many times over: real software TPMs, shims and spawners, minutes of them. */
const parts = [
  "test/agent/door-clients.test.ts",
  "test/agent/door-versions.test.ts",
  "test/agent/hostile*.test.ts",
  "test/agent/launch*.test.ts",
  "test/agent/cli/**/*.test.ts",
  "test/agent/profile-openings.test.ts",
  "test/agent/relay-pairs.test.ts",
  "test/agent/report.test.ts",
  "test/agent/service*.test.ts",
  "test/agent/shims/*.test.ts",
  "test/agent/relay.test.ts",
  "test/agent/relay-connections.test.ts",
  "test/agent/spawner.test.ts",
  "test/agent/spawner-prepare.test.ts",
  "test/agent/open-flood.test.ts",
  "test/agent/spawner-looks.test.ts",
  "test/agent/spawner-peers.test.ts",
  "test/agent/spawner-run-dir.test.ts",
  "test/agent/spawner-workloads.test.ts",
  "test/agent/spawner-cap.test.ts",
  "test/agent/spawner-state.test.ts",
  "test/agent/spawner-devices.test.ts",
  "test/attest/certificate-chain.test.ts",
  "test/attest/page/*.test.ts",
  "test/attest/endorsement.test.ts",
  "test/attest/service/{enrolment,evidence,hostile,limits,machine,openapi,operating,pool,roles,store,store-thread,walk-through}.test.ts",
  "test/seal/tss/leak.test.ts",
  "test/seal/tss/published.test.ts",
  "test/bench/bench.test.ts",
  "test/lab/lab.test.ts",
  "test/docs/verifier-guide.test.ts",
  "test/soak/soak.test.ts",
  "test/fuzz/fuzz.test.ts",
  "test/fuzz/harness.test.ts",
  "test/seal/diagnosis-cost.test.ts",
  "test/seal/walk-through.test.ts",
  "test/seal/cap.test.ts",
  "test/seal/diagnosis.test.ts",
  "test/seal/epoch.test.ts",
  "test/seal/ownership.test.ts",
  "test/seal/store.test.ts",
  "test/seal/unsealer.test.ts",
  "test/seal/unsealer-credentials.test.ts",
  "test/seal/unsealer-epoch.test.ts",
  "test/seal/unsealer-keys.test.ts",
  "test/seal/unsealer-request.test.ts",
  "test/seal/unsealer-wait.test.ts",
];

/** Machines that no other file waits for; see test/run.ts. */
const moreMachines = ["image-disks", "own-module", "package", "secure-boot", "systemd"];
/** Faults at every place: `npm run faults` tries all of them, the other runs some. */
const faults = ["test/faults/*.test.ts"];
/** Minutes each, and outside `npm test`: `npm run campaign`. */
const campaignMachines = [
  ...["build-crash", "command", "crash", "drills-fleet", "drills-restart", "grub", "images-others", "kernel"],
  ...["systemd-bookworm", "systemd-trixie"],
];
const campaign = ["test/bench/whole.test.ts", "test/soak/machine.test.ts"];
const e2e = (names: readonly string[]) => names.map((name) => `test/e2e/${name}.test.ts`);

/** Vitest's own default is a core fewer: one file at a time on two cores, although most files wait for other programs most of the time. */
const maxWorkers = Math.max(2, availableParallelism());

// `fast` is what `npm run check` runs; `npm test` runs all but `campaign` and `faults`, `vm` beside the others. `vm` and `vm-more` build images and boot them, one file
// after the other. Timeouts end what hangs, and nothing else: a machine that does other work as well takes several times as long as an idle one.
export default defineConfig({
  root,
  test: {
    projects: [
      {
        root,
        test: {
          name: "fast",
          // A worker reads the sources once for all of its files: none of these leaves anything behind in its process.
          isolate: false,
          include: ["test/**/*.test.ts"],
          exclude: ["test/e2e/**", ...parts, ...faults, ...campaign],
          maxWorkers,
          testTimeout: 120_000,
          hookTimeout: 120_000,
        },
      },
      {
        root,
        test: {
          name: "parts",
          include: [...parts, ...faults],
          maxWorkers,
          provide: { faults: "some" },
          testTimeout: 300_000,
          hookTimeout: 300_000,
        },
      },
      {
        root,
        test: {
          name: "faults",
          include: faults,
          maxWorkers,
          provide: { faults: "all" },
          testTimeout: 6 * 3_600_000,
          hookTimeout: 300_000,
        },
      },
      machines("vm", ["test/e2e/**/*.test.ts"], e2e([...moreMachines, ...campaignMachines])),
      machines("vm-more", e2e(moreMachines)),
      machines("campaign", [...e2e(campaignMachines), ...campaign]),
    ],
  },
});

function machines(name: string, include: string[], exclude: string[] = []) {
  const limits = { testTimeout: 900_000, hookTimeout: 1_500_000, fileParallelism: false };
  return { root, test: { name, include, exclude, ...limits } };
}
