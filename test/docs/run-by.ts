export interface RunBy {
  readonly document: string;
  readonly files: readonly string[];
  /** A section is run with all that is below it. */
  readonly whole?: true;
}

/**
 * Documents whose blocks a test runs as they stand. A block counts as run when one of `files` names its heading, or its section's. Who writes a page with
 * commands that can run here adds a row; every other command is held against its program's real options (commands.test.ts).
 */
export const RUN_BY: readonly RunBy[] = [
  { document: "agent/cli/README.md", files: ["test/support/walk-through.ts", "test/agent/cli/walk-through.test.ts"] },
  { document: "seal/README.md", files: ["test/seal/walk-through.test.ts"] },
  { document: "attest/service/README.md", files: ["test/attest/service/walk-through.test.ts"] },
  {
    ...{ document: "agent/docs/drills.md", whole: true },
    files: ["drills", "drills-fleet", "drills-restart"].map((name) => `test/e2e/${name}.test.ts`),
  },
  { document: "agent/docs/your-own-module.md", files: ["test/e2e/own-module.test.ts"] },
  { document: "agent/docs/verifier-guide.md", files: ["test/docs/verifier-guide.test.ts"] },
];
