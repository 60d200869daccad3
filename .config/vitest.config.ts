import { resolve } from "node:path";
import { defineConfig } from "vitest/config";

const root = resolve(import.meta.dirname, "..");

// Two projects: `fast` needs no virtual machine and ends in seconds; `vm` builds the image and boots it.
export default defineConfig({
  root,
  test: {
    projects: [
      { root, test: { name: "fast", include: ["test/**/*.test.ts"], exclude: ["test/e2e/**"], testTimeout: 60_000, hookTimeout: 60_000 } },
      {
        root,
        test: { name: "vm", include: ["test/e2e/**/*.test.ts"], testTimeout: 900_000, hookTimeout: 1_500_000, fileParallelism: false },
      },
    ],
  },
});
