import { afterAll, beforeAll, expect, test } from "vitest";
import { diagnoseUnseal } from "../../seal/diagnosis.ts";
import { readTpmState } from "../../seal/tpm-state.ts";
import { openPackage } from "../support/open-package.ts";
import { loadedHandles, lockoutCounter, withTss } from "../support/sealing-bench.ts";
import { CONDITIONS } from "../support/unseal-conditions.ts";
import { enter, type Machine, openMachine } from "../support/unseal-machine.ts";

const ATTEMPTS = 50;

let machine: Machine & AsyncDisposable;
beforeAll(async () => {
  machine = await openMachine();
});
afterAll(() => machine?.[Symbol.asyncDispose]());

const cases = CONDITIONS.map((condition) => [condition.what, condition] as const);

test.each(cases)(
  "I2: when %s, fifty diagnoses and fifty attempts cost no count of the lockout, and leave nothing in the TPM",
  async (_what, condition) => {
    await using entered = await enter(machine, condition);
    const { question, tpm } = entered;
    const { sealed, releases } = question;
    await withTss(tpm, async (tss) => {
      const before = await lockoutCounter(tss);
      const seen = new Set<string>();
      for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
        const state = await readTpmState(tss, { ekName: sealed.ekName, name: sealed.name });
        seen.add(
          diagnoseUnseal({ ...question, state })
            .map(({ code, got }) => `${code} ${got}`)
            .join(),
        );
        for (const release of releases)
          await openPackage(tss, { sealed, release, anchors: machine.keys.anchors }).catch(() => null);
      }
      expect(seen.size).toBe(1);
      expect(await lockoutCounter(tss)).toBe(before);
      expect(await loadedHandles(tss)).toEqual([]);
    });
  },
);
