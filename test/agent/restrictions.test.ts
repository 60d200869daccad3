import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import type { AuditLog } from "../../agent/audit/log.ts";
import { LivePolicy } from "../../agent/broker/index.ts";
import { Restrictions } from "../../agent/restrictions/index.ts";
import { createTurns } from "../../agent/turns.ts";
import type { LaunchEvent } from "../../attest/index.ts";
import { type Policy, parsePolicy, type Release, sha256, signEnvelope, signPolicy, toHex } from "../../policy/index.ts";
import { provisionRecords, readFreeze } from "../../seal/index.ts";
import { NARROWING_STEPS, scopeIn, wideDocument } from "../support/narrowing-steps.ts";
import { documentBytes, type PolicyDocument } from "../support/policy-document.ts";
import {
  answerOf,
  type BenchKeys,
  createBenchKeys,
  makeRelease,
  newKey,
  openTss,
  snapshot,
} from "../support/sealing-bench.ts";
import { type SoftwareTpm, startSwtpm } from "../support/swtpm.ts";

let tpm: SoftwareTpm;
let keys: BenchKeys;
let release: Release;
let provisioned: Awaited<ReturnType<typeof snapshot>>;
type Tss = Awaited<ReturnType<typeof openTss>>;

beforeAll(async () => {
  tpm = await startSwtpm({ endorsement: "none" });
  keys = await createBenchKeys();
  release = await makeRelease(keys);
  await using tss = await openTss(tpm);
  await provisionRecords(tss);
  provisioned = await snapshot(tpm);
});
beforeEach(() => provisioned.restore());
afterAll(async () => {
  await provisioned?.discard();
  await tpm?.stop();
});

const bytesOf = (document: PolicyDocument, serial: number) => documentBytes({ ...document, serial });
const POLICY = parsePolicy(bytesOf(wideDocument(), 7));

interface Boot {
  readonly restrictions: Restrictions;
  readonly live: LivePolicy;
  readonly events: LaunchEvent[];
  readonly records: Parameters<AuditLog["append"]>[0][];
  /** What was said to hold without a record. */
  readonly unrecorded: string[];
}

/** A machine that serves this policy, as far as restrictions go; `serve: false`: its launch is not over. */
async function boot(tss: Tss, { policy = POLICY, serve = true, audit = true } = {}): Promise<Boot> {
  const events: LaunchEvent[] = [];
  const records: Boot["records"] = [];
  const unrecorded: string[] = [];
  const restrictions = new Restrictions({
    ...{ tss, policy: () => policy, release: () => release, turns: createTurns() },
    unrecorded: (what) => void unrecorded.push(what),
    log: { measure: async (event) => void events.push(event) },
    audit: {
      append: async (entry) => {
        if (!audit) throw new Error("disk full");
        records.push(entry);
        return { seq: records.length, hash: "" };
      },
    },
  });
  const live = new LivePolicy(policy);
  if (serve) await restrictions.begin(live);
  return { restrictions, live, events, records, unrecorded };
}

async function withBoot(use: (machine: Boot, tss: Tss) => Promise<void>, options?: Parameters<typeof boot>[1]) {
  await using tss = await openTss(tpm);
  await use(await boot(tss, options), tss);
}

describe("freezing", () => {
  test("I8: a frozen scope is refused at once and after a reboot, recorded and measured in each boot; the others are served", async () => {
    await withBoot(async ({ restrictions, live, events, records }, tss) => {
      expect([live.isFrozen("vault"), events, records]).toEqual([false, [], []]);
      expect(await restrictions.freeze({ kind: "scopes", scopes: ["vault"] })).toMatchObject({
        scopes: ["vault"],
        all: false,
      });
      expect([live.isFrozen("vault"), live.isFrozen("signing")]).toEqual([true, false]);
      expect(events.map(({ kind, name }) => `${kind} ${name}`)).toEqual(["narrowed freeze vault"]);
      expect(records).toMatchObject([{ operation: "freeze", scope: "vault", decision: "deny" }]);
      // Again changes nothing, and fills neither log.
      await restrictions.freeze({ kind: "scopes", scopes: ["vault"] });
      expect([events.length, records.length]).toEqual([1, 1]);
      expect(await readFreeze(tss)).toEqual({ kind: "bits", bits: 8n });
    });
    await tpm.restart();
    await withBoot(async ({ restrictions, live, events, records }) => {
      expect([live.isFrozen("vault"), live.isFrozen("signing")]).toEqual([true, false]);
      expect(events.map(({ name }) => name)).toEqual(["freeze vault"]);
      expect(records).toMatchObject([{ scope: "vault", reason: "frozen since before this boot" }]);
      expect(await restrictions.status()).toEqual({
        ...{ all: false, scopes: ["vault"], bits: "0000000000000008" },
        freezeBits: { signing: null, vault: 3, intake: null, arrived: null },
      });
    });
  });

  test("I8: everything is frozen at once, and the TPM keeps it", async () => {
    await withBoot(async ({ restrictions, live, events }, tss) => {
      await restrictions.freeze({ kind: "all" });
      for (const { name } of POLICY.scopes) expect(live.isFrozen(name)).toBe(true);
      expect(events.map(({ name }) => name)).toEqual(["freeze *"]);
      expect(await readFreeze(tss)).toEqual({ kind: "bits", bits: 1n });
    });
  });

  test("I8: a scope without a bit, or that there is not, is refused with advice, and nothing is frozen", async () => {
    await withBoot(async ({ restrictions, live }, tss) => {
      for (const scope of ["signing", "nowhere"])
        await expect(restrictions.freeze({ kind: "scopes", scopes: ["vault", scope] })).rejects.toMatchObject({
          ...{ code: "ERR_FREEZE", hint: expect.stringMatching(/--all/) },
        });
      expect([live.isFrozen("vault"), await readFreeze(tss)]).toEqual([false, { kind: "bits", bits: 0n }]);
    });
  });

  test("I8: what is frozen while the launch is under way is frozen when it serves, and measured behind the cap only", async () => {
    await withBoot(
      async ({ restrictions, live, events }) => {
        await restrictions.freeze({ kind: "scopes", scopes: ["vault"] });
        expect(events).toEqual([]);
        await restrictions.begin(live);
        expect([live.isFrozen("vault"), events.length]).toEqual([true, 1]);
      },
      { serve: false },
    );
  });

  test("I8: a TPM that has lost its bits freezes everything when serving begins, and keeps nothing, which is said", async () => {
    await withBoot(
      async ({ restrictions, live }, tss) => {
        await using index = await tss.trFromTpmPublic(0x0180_0023);
        expect(await answerOf(tss.nvUndefineSpace(index))).toBe(null);
        await restrictions.begin(live);
        expect(live.frozen.all).toBe(true);
        await expect(restrictions.freeze({ kind: "all" })).rejects.toMatchObject({ code: "ERR_SEAL_RECORD" });
      },
      { serve: false },
    );
  });

  test("I8: without the TPM's consent, and without a log that can be written, it holds all the same, is measured, and is said", async () => {
    await withBoot(
      async ({ restrictions, live, events, unrecorded }, tss) => {
        await using index = await tss.trFromTpmPublic(0x0180_0023);
        await tss.nvUndefineSpace(index);
        await expect(restrictions.freeze({ kind: "scopes", scopes: ["vault"] })).rejects.toMatchObject({
          code: "ERR_SEAL_RECORD",
        });
        expect([live.isFrozen("vault"), events.length]).toEqual([true, 1]);
        expect(unrecorded).toEqual(["freeze vault holds, and has no audit record: disk full"]);
      },
      { audit: false },
    );
  });
});

describe("narrowing at run time", () => {
  const narrower = (serial = 8, change: (document: PolicyDocument) => void = () => undefined) => {
    const document = wideDocument();
    for (const { apply } of NARROWING_STEPS) apply(document);
    change(document);
    return bytesOf(document, serial);
  };

  test("I7: a narrower policy of the release's key is in force at once, recorded, and measured with its serial and digest", async () => {
    await withBoot(async ({ restrictions, live, events, records }) => {
      const bytes = narrower();
      const report = await restrictions.narrow(await signPolicy(bytes, keys.releaseKey));
      expect(report).toMatchObject({ serial: 8, sha256: toHex(sha256(bytes)) });
      expect(live.current.serial).toBe(8);
      expect(live.scope("arrived")).toBe(null);
      expect(events).toEqual([{ kind: "narrowed", name: "policy 8", sha256: sha256(bytes) }]);
      expect(records).toMatchObject([
        { operation: "narrow", scope: "policy", reason: expect.stringMatching(/^serial 8, /) },
      ]);
    });
    // It is gone with the boot: the next one serves the released policy again.
    await withBoot(async ({ live }) => expect(live.current.serial).toBe(7));
  });

  test("I7: one that widens is refused with what it would allow, and one with the same serial; the policy in force stays", async () => {
    await withBoot(async ({ restrictions, live, events }) => {
      await restrictions.narrow(await signPolicy(narrower(), keys.releaseKey));
      const inForce: Policy = live.current;
      const back = await signPolicy(bytesOf(wideDocument(), 9), keys.releaseKey);
      await expect(restrictions.narrow(back)).rejects.toMatchObject({
        ...{
          code: "ERR_POLICY_WIDENS",
          message: expect.stringMatching(/scopes\.signing\.approvals\.required: from 2 to 1/),
        },
      });
      const same = await signPolicy(narrower(), keys.releaseKey);
      await expect(restrictions.narrow(same)).rejects.toMatchObject({ code: "ERR_POLICY_WIDENS" });
      expect(live.current).toBe(inForce);
      expect(events).toHaveLength(1);
    });
  });

  test("I7: any other key's, another type's, and any before serving are refused", async () => {
    await withBoot(async ({ restrictions, live }) => {
      const wrong = [
        await signPolicy(narrower(), keys.operator),
        await signPolicy(narrower(), await newKey()),
        await signEnvelope("application/vnd.ironclaw.order+json", narrower(), keys.releaseKey),
      ];
      for (const envelope of wrong)
        await expect(restrictions.narrow(envelope)).rejects.toMatchObject({ code: "ERR_ENVELOPE_SIGNATURE" });
      await expect(restrictions.narrow(narrower())).rejects.toMatchObject({ code: "ERR_ENVELOPE_MALFORMED" });
      expect(live.current).toBe(POLICY);
    });
    await withBoot(
      async ({ restrictions }) => {
        const signed = await signPolicy(narrower(), keys.releaseKey);
        await expect(restrictions.narrow(signed)).rejects.toMatchObject({ code: "ERR_LAUNCH" });
      },
      { serve: false },
    );
  });

  test("I8: a narrowing whose record cannot be written is in force and measured, and that it has none is said", async () => {
    await withBoot(
      async ({ restrictions, live, events, unrecorded }) => {
        await restrictions.narrow(await signPolicy(narrower(), keys.releaseKey));
        expect([live.current.serial, events.length]).toEqual([8, 1]);
        expect(unrecorded).toEqual(["narrow policy holds, and has no audit record: disk full"]);
      },
      { audit: false },
    );
  });

  test("I8: a scope that gets a bit which is set is frozen by that; what was frozen stays so", async () => {
    await withBoot(async ({ restrictions, live }) => {
      await restrictions.freeze({ kind: "scopes", scopes: ["vault"] });
      const moved = (document: PolicyDocument) => {
        document.scopes = document.scopes.filter(({ name }) => name !== "vault");
        Object.assign(scopeIn(document, "signing"), { freezeBit: 3 });
      };
      await restrictions.narrow(await signPolicy(narrower(8, moved), keys.releaseKey));
      expect([live.isFrozen("signing"), live.isFrozen("intake")]).toEqual([true, false]);
    });
  });
});
