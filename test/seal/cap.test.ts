import { createHash } from "node:crypto";
import { HASH_SIZE, Session, TpmObject, type Tpm as Tss } from "node-tpm2-tss";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type LaunchEvent, launchEventDigests } from "../../attest/index.ts";
import { AGENT_PCR, EPOCH_INDEX, type Release, SEAL_PCRS, sha256, toHex } from "../../policy/index.ts";
import { importSealed } from "../../seal/endorsement.ts";
import { provisionEpoch } from "../../seal/epoch.ts";
import type { SealedPackage } from "../../seal/package.ts";
import { executePolicy } from "../../seal/policy-session.ts";
import { openTpm } from "../../seal/tpm.ts";
import { runSteps } from "../support/epoch-attacks.ts";
import {
  loadSealed,
  openPackage,
  type SealedCredential,
  satisfy,
  satisfyAfterPcr,
  startSalted,
  unsealSteps,
  unsealTickets,
} from "../support/open-package.ts";
import {
  answerOf,
  type BenchKeys,
  boot,
  createBenchKeys,
  LAUNCH,
  loadedHandles,
  makeRelease,
  openTss,
  PIN,
  sealFor,
  withTss,
} from "../support/sealing-bench.ts";
import { type SoftwareTpm, startSwtpm } from "../support/swtpm.ts";

const BANKS = ["sha1", "sha256", "sha384", "sha512"] as const;
const CAP: LaunchEvent = { kind: "cap", name: "serving", sha256: sha256(new Uint8Array()) };

let tpm: SoftwareTpm;
let keys: BenchKeys;
let release: Release;
let sealed: SealedPackage;
let imported: Uint8Array;

beforeAll(async () => {
  // More banks than the project keeps: a firmware may activate what it likes.
  tpm = await startSwtpm({ banks: BANKS.join() });
  keys = await createBenchKeys();
  release = await makeRelease(keys);
  await withTss(tpm, async (tss) => {
    await provisionEpoch(tss, keys.root.spkiPem, release.delegation);
    sealed = await sealFor(tss, keys);
    imported = await importSealed(tss, sealed);
  });
});
afterAll(() => tpm?.stop());

/** As the agent does it at the end of a launch. */
async function extendAsAgent(event: LaunchEvent): Promise<void> {
  await using agent = await openTpm({ tcti: tpm.tcti });
  await agent.pcrExtend(AGENT_PCR, launchEventDigests(event));
}

async function agentPcr(tss: Tss): Promise<ReadonlyMap<string, string>> {
  const read = await tss.pcrRead(BANKS.map((bank) => ({ bank, pcrs: [AGENT_PCR] })));
  return new Map(BANKS.map((bank) => [bank, toHex(read.get(bank)?.get(AGENT_PCR) ?? new Uint8Array())]));
}

/** What somebody has at hand who owned the machine before the launch ended. */
interface Attacker {
  readonly tss: Tss;
  readonly credential: SealedCredential;
  /** Loaded, as long as the TPM is not reset. */
  readonly object: TpmObject;
  readonly tickets: readonly Uint8Array[];
  /** The end of the launch; nothing at all when the row is run to show that it would have worked. */
  cap(): Promise<void>;
}

async function satisfied({ tss, credential, tickets }: Attacker): Promise<Session> {
  const session = await startSalted(tss, "p384");
  await satisfy(tss, session, credential, tickets);
  return session;
}

async function unsealWith({ tss, object }: Attacker, session: Session): Promise<void> {
  expect((await tss.unseal(object, { sessions: [session] })).length).toBe(32);
}

async function loadSession({ tss }: Pick<Attacker, "tss">, context: Uint8Array): Promise<Session> {
  const session = await tss.contextLoad(context);
  if (session instanceof Session) return session;
  throw new TypeError("not a session");
}

/** `works`: without the cap the same acts unseal. */
interface Row {
  readonly what: string;
  readonly code: string;
  readonly works: boolean;
  readonly act: (attacker: Attacker) => Promise<unknown>;
}

const rows: readonly Row[] = [
  {
    what: "a fresh session with the right steps",
    code: "0x1c4",
    works: true,
    act: async (attacker) => {
      await attacker.cap();
      await unsealWith(attacker, await satisfied(attacker));
    },
  },
  {
    what: "a fresh session in which PolicyPCR takes the PCRs as they are",
    code: "0x1c4",
    works: true,
    act: async (attacker) => {
      const { tss, credential, tickets } = attacker;
      await attacker.cap();
      await using index = await tss.trFromTpmPublic(EPOCH_INDEX);
      const session = await startSalted(tss, "p384");
      await runSteps(tss, session, unsealSteps(credential), { index, tickets, anyPcrs: true });
      await unsealWith(attacker, session);
    },
  },
  {
    what: "a fresh session without steps",
    code: "0x99d",
    works: false,
    act: async (attacker) => {
      await attacker.cap();
      await unsealWith(attacker, await startSalted(attacker.tss, "p384"));
    },
  },
  {
    what: "the empty password",
    code: "0x12f",
    works: false,
    act: async ({ tss, object, cap }) => {
      await cap();
      await tss.unseal(object);
    },
  },
  {
    what: "a session that was satisfied before and kept open, with the object still loaded",
    code: "0x128",
    works: true,
    act: async (attacker) => {
      const session = await satisfied(attacker);
      await attacker.cap();
      await unsealWith(attacker, session);
    },
  },
  {
    what: "a satisfied session that was saved before and loaded after",
    code: "0x128",
    works: true,
    act: async (attacker) => {
      const context = await attacker.tss.contextSave(await satisfied(attacker));
      await attacker.cap();
      await unsealWith(attacker, await loadSession(attacker, context));
    },
  },
  {
    what: "the saved session, loaded a second time",
    code: "0x1cb",
    works: false,
    act: async (attacker) => {
      const context = await attacker.tss.contextSave(await satisfied(attacker));
      await attacker.cap();
      expect(await answerOf(unsealWith(attacker, await loadSession(attacker, context)))).toBe("0x128");
      await loadSession(attacker, context);
    },
  },
  {
    what: "a session with PolicyPCR done before and the other steps after",
    code: "0x128",
    works: true,
    act: async (attacker) => {
      const { tss, credential, tickets } = attacker;
      const session = await startSalted(tss, "p384");
      await executePolicy(tss, session, unsealSteps(credential).slice(0, 1));
      await attacker.cap();
      await satisfyAfterPcr(tss, session, credential, tickets);
      await unsealWith(attacker, session);
    },
  },
  {
    what: "the object from its saved context, in a satisfied session",
    code: "0x128",
    works: true,
    act: async (attacker) => {
      const context = await attacker.tss.contextSave(attacker.object);
      const session = await satisfied(attacker);
      await attacker.cap();
      await attacker.tss.flushContext(attacker.object);
      const object = await attacker.tss.contextLoad(context);
      if (!(object instanceof TpmObject)) throw new TypeError("not an object");
      await unsealWith({ ...attacker, object }, session);
    },
  },
  {
    what: "a satisfied session that starts its policy again",
    code: "0x1c4",
    works: true,
    act: async (attacker) => {
      const session = await satisfied(attacker);
      await attacker.cap();
      await attacker.tss.policyRestart(session);
      await satisfy(attacker.tss, session, attacker.credential, attacker.tickets);
      await unsealWith(attacker, session);
    },
  },
  {
    what: "a trial session",
    code: "0x982",
    works: false,
    act: async (attacker) => {
      await using session = await attacker.tss.startAuthSession({ kind: "trial" });
      await using index = await attacker.tss.trFromTpmPublic(EPOCH_INDEX);
      await executePolicy(attacker.tss, session, unsealSteps(attacker.credential), { index });
      await attacker.cap();
      await unsealWith(attacker, session);
    },
  },
  {
    what: "TPM2_PCR_Reset of the agent PCR",
    code: "0x907",
    works: false,
    act: async ({ tss, cap }) => {
      await cap();
      await tss.pcrReset(AGENT_PCR);
    },
  },
];

async function run(row: Row, cap: () => Promise<void>): Promise<string | null> {
  await boot(tpm);
  await using tss = await openTss(tpm);
  const credential = { sealed, release, anchors: keys.anchors, imported };
  const tickets = await unsealTickets(tss, credential);
  return await answerOf(row.act({ tss, credential, tickets, cap, object: await loadSealed(tss, credential) }));
}

describe("once the agent PCR is capped", () => {
  test.each(rows)("I3: $what unseals nothing: the TPM answers $code", async (row) => {
    expect(await run(row, () => extendAsAgent(CAP))).toBe(row.code);
    expect(await withTss(tpm, loadedHandles)).toEqual([]);
  });

  test.each(rows.filter(({ works }) => works))("without the cap $what does unseal", async (row) => {
    expect(await run(row, async () => undefined)).toBe(null);
  });

  /** Before the cap: a satisfied session, saved; and the object, saved. After it, the TPM is started again. */
  async function savedAndStarted(
    type: "clear" | "state" | "reset",
  ): Promise<{ session: Uint8Array; object: Uint8Array }> {
    await boot(tpm);
    const contexts = await withTss(tpm, async (tss) => {
      const credential = { sealed, release, anchors: keys.anchors, imported };
      const tickets = await unsealTickets(tss, credential);
      await using object = await loadSealed(tss, credential);
      const savedObject = await tss.contextSave(object);
      const session = await startSalted(tss, "p384");
      await satisfy(tss, session, credential, tickets);
      return { session: await tss.contextSave(session), object: savedObject };
    });
    await extendAsAgent(CAP);
    if (type === "reset") await tpm.restart();
    else {
      await withTss(tpm, (tss) => tss.shutdown("state"));
      await tpm.restart("none");
      await withTss(tpm, (tss) => tss.startup(type));
    }
    return contexts;
  }

  test("I3: a TPM Resume keeps the cap, and a satisfied session that was saved unseals nothing: 0x128", async () => {
    const contexts = await savedAndStarted("state");
    await withTss(tpm, async (tss) => {
      const object = await loadSealed(tss, { sealed, release, anchors: keys.anchors, imported });
      const attacker = { tss, object };
      const session = await loadSession(attacker, contexts.session);
      expect(await answerOf(tss.unseal(object, { sessions: [session] }))).toBe("0x128");
      await tss.flushContext(session);
      await tss.flushContext(object);
      const open = openPackage(tss, { sealed, release, anchors: keys.anchors, imported });
      expect(await answerOf(open)).toBe("0x1c4");
    });
  });

  test("I3: after a TPM Restart the PCR is zero, and a satisfied session that was saved unseals nothing: 0x128", async () => {
    const contexts = await savedAndStarted("clear");
    await withTss(tpm, async (tss) => {
      expect((await agentPcr(tss)).get("sha256")).toBe("00".repeat(32));
      const object = await loadSealed(tss, { sealed, release, anchors: keys.anchors, imported });
      const session = await loadSession({ tss }, contexts.session);
      expect(await answerOf(tss.unseal(object, { sessions: [session] }))).toBe("0x128");
    });
  });

  test("I3: a TPM Reset takes the saved session and the saved object: 0x1df", async () => {
    const contexts = await savedAndStarted("reset");
    await withTss(tpm, async (tss) => {
      expect(await answerOf(tss.contextLoad(contexts.session))).toBe("0x1df");
      expect(await answerOf(tss.contextLoad(contexts.object))).toBe("0x1df");
    });
    // The next launch is another boot.
    await boot(tpm);
    const open = withTss(tpm, (tss) => openPackage(tss, { sealed, release, anchors: keys.anchors, imported }));
    expect(await open).toEqual(PIN);
  });

  test("I3, its limit: whoever starts the TPM again without the machine can extend what the boot would have, and unseal", async () => {
    await savedAndStarted("clear");
    await boot(tpm); // the same digests, by root instead of the firmware
    const open = withTss(tpm, (tss) => openPackage(tss, { sealed, release, anchors: keys.anchors, imported }));
    expect(await open).toEqual(PIN);
  });
});

describe("every active bank", () => {
  test("I3: one extend changes the agent PCR in all of them, as predicted", async () => {
    await boot(tpm, "image-1", []);
    await extendAsAgent(CAP);
    const digests = launchEventDigests(CAP);
    const further = (bank: string) => createHash(bank).update(digests.sha384).digest();
    const expected = BANKS.map((bank) => {
      const digest = bank === "sha256" || bank === "sha384" ? digests[bank] : further(bank);
      const hash = createHash(bank).update(new Uint8Array(HASH_SIZE[bank])).update(digest);
      return [bank, hash.digest("hex")] as const;
    });
    expect(await withTss(tpm, agentPcr)).toEqual(new Map(expected));
  });

  test("I3: root who replays the published digests of the launch in any bank gets no value of before the cap back", async () => {
    await boot(tpm, "image-1", []);
    const seen: ReadonlyMap<string, string>[] = [];
    const look = async () => void seen.push(await withTss(tpm, agentPcr));
    await look();
    for (const event of LAUNCH) {
      await extendAsAgent(event);
      await look();
    }
    await extendAsAgent(CAP);
    const before = new Set(seen.flatMap((values) => [...values.values()]));
    await withTss(tpm, async (tss) => {
      for (const event of [...LAUNCH, ...LAUNCH]) {
        const { sha384, sha256: digest256 } = launchEventDigests(event);
        for (const bank of BANKS) {
          const further = () => Uint8Array.from(createHash(bank).update(sha384).digest());
          const digest = bank === "sha256" ? digest256 : bank === "sha384" ? sha384 : further();
          await tss.pcrExtend(AGENT_PCR, new Map([[bank, digest]]));
          for (const value of (await agentPcr(tss)).values()) expect(before.has(value)).toBe(false);
        }
      }
      const open = openPackage(tss, { sealed, release, anchors: keys.anchors, imported });
      expect(await answerOf(open)).toBe("0x1c4");
    });
  });

  test("I3: a TPM with one bank, and one whose banks the project does not keep, is capped in what it has", async () => {
    for (const banks of ["sha256", "sha1,sha256"]) {
      await using other = await startSwtpm({ endorsement: "keys", banks });
      await using agent = await openTpm({ tcti: other.tcti });
      await agent.pcrExtend(AGENT_PCR, launchEventDigests(CAP));
      const values = await withTss(other, agentPcr);
      for (const bank of banks.split(",")) expect(values.get(bank), bank).not.toMatch(/^0*$/);
    }
  });

  test("I3: the PCRs a seal depends on are those that only a power cycle resets", async () => {
    await withTss(tpm, async (tss) => {
      for (const pcr of SEAL_PCRS) expect(await answerOf(tss.pcrReset(pcr)), `${pcr}`).toBe("0x907");
    });
  });
});
