import { createHmac } from "node:crypto";
import fc from "fast-check";
import type { Tpm as Tss } from "node-tpm2-tss";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { makeCredential, parseTpmPublic } from "../../attest/index.ts";
import { concatBytes, EPOCH_INDEX, PolicyError, type Release, toHex, utf8 } from "../../policy/index.ts";
import { openEndorsementKey } from "../../seal/endorsement.ts";
import { provisionEpoch } from "../../seal/epoch.ts";
import { SealError } from "../../seal/errors.ts";
import {
  createOwnershipSecret,
  deriveOwnership,
  encodeEscrow,
  isOwnershipSecret,
  type Ownership,
  PERMANENT,
  parseEscrow,
  readPermanent,
  takeOwnership,
} from "../../seal/ownership.ts";
import { openTpm } from "../../seal/tpm.ts";
import { provisionRecords } from "../../seal/tpm-records.ts";
import { openPackage } from "../support/open-package.ts";
import {
  answerOf,
  type BenchKeys,
  boot,
  createBenchKeys,
  type EkKind,
  loadedHandles,
  lockoutCounter,
  makeRelease,
  PIN,
  sealFor,
  snapshot,
  withTss,
} from "../support/sealing-bench.ts";
import { type SoftwareTpm, startSwtpm } from "../support/swtpm.ts";
import { type BusFault, openTpmBus } from "../support/tpm-bus.ts";
import { openInterposer } from "../support/tpm-interposer.ts";

let tpm: SoftwareTpm;
let keys: BenchKeys;
let release: Release;
let fresh: Awaited<ReturnType<typeof snapshot>>;
const SECRET = createOwnershipSecret();
const own = deriveOwnership(SECRET);
const other = deriveOwnership(createOwnershipSecret());

beforeAll(async () => {
  tpm = await startSwtpm();
  keys = await createBenchKeys();
  release = await makeRelease(keys);
  await withTss(tpm, async (tss) => {
    await provisionEpoch(tss, keys.root.spkiPem, release.delegation);
    await provisionRecords(tss);
  });
  fresh = await snapshot(tpm);
});
beforeEach(() => fresh.restore());
afterAll(async () => {
  await fresh?.discard();
  await tpm?.stop();
});

async function take(tss: Tss, ownership: Ownership = own, ek: EkKind = "p384"): Promise<void> {
  await using key = await openEndorsementKey(tss, ek);
  await takeOwnership(tss, key, ownership);
}

const BOTH = PERMANENT.ownerAuthSet | PERMANENT.lockoutAuthSet;

/** Both are set, to these values, and to no others: the TPM is asked to take them. */
async function expectOwned(ownership: Ownership): Promise<void> {
  await withTss(tpm, async (tss) => {
    expect((await readPermanent(tss)) & (BOTH | PERMANENT.endorsementAuthSet)).toBe(BOTH);
    expect(await loadedHandles(tss)).toEqual([]);
    expect(await lockoutCounter(tss)).toBe(0);
    await tss.setAuth("owner", ownership.ownerAuth);
    await tss.setAuth("lockout", ownership.lockoutAuth);
    expect(await answerOf(tss.hierarchyChangeAuth("owner", ownership.ownerAuth))).toBe(null);
    expect(await answerOf(tss.dictionaryAttackLockReset())).toBe(null);
  });
}

describe("taking ownership", () => {
  test.each(["p384", "rsa2048"] as const)(
    "I2: sets both authorisations, in a session salted to the %s EK",
    async (ek) => {
      await withTss(tpm, (tss) => take(tss, own, ek));
      await expectOwned(own);
    },
  );

  test("I4: neither authorisation is on the bus, when it is set and when it is repeated; a plain change would be seen", async () => {
    await using bus = await openInterposer(tpm);
    for (let again = 0; again < 3; again++) await withTss(bus, (tss) => take(tss));
    const traffic = () => Buffer.concat(bus.traffic);
    for (const secret of [own.ownerAuth, own.lockoutAuth, SECRET])
      for (const part of [secret, secret.subarray(0, 8), secret.subarray(24)])
        expect(traffic().includes(part)).toBe(false);
    expect(bus.commands.filter((code) => code === 0x129)).toHaveLength(2 + 1 + 1); // HierarchyChangeAuth
    await withTss(bus, async (tss) => {
      await tss.setAuth("owner", own.ownerAuth);
      await tss.hierarchyChangeAuth("owner", other.ownerAuth);
    });
    for (const secret of [own.ownerAuth, other.ownerAuth]) expect(traffic().includes(secret)).toBe(true);
  });

  test("I11: after a crash at any of its commands it is repeated with the same values, and then complete", async () => {
    await using bus = await openTpmBus(tpm);
    const agent = { tcti: bus.tcti("agent") };
    bus.arm();
    await withTss(agent, (tss) => take(tss));
    const { length } = bus.commands;
    expect(length).toBeGreaterThan(5);
    for (let at = 0; at < length; at++) {
      for (const fault of ["refuse", "lose"] as const) {
        await fresh.restore();
        bus.arm(({ index }): BusFault => (index === at ? fault : null));
        await withTss(agent, (tss) => take(tss).catch(() => undefined)).catch(() => undefined);
        await bus.flushClient("agent");
        bus.arm();
        await withTss(agent, (tss) => take(tss));
        await expectOwned(own);
      }
    }
  });

  test("I2: a TPM with another owner is refused, keeps it, and counts nothing", async () => {
    await withTss(tpm, (tss) => take(tss, other));
    await withTss(tpm, async (tss) => {
      for (let again = 0; again < 5; again++) {
        const error = await take(tss).catch((cause: unknown) => cause);
        expect(error).toMatchObject({ code: "ERR_SEAL_OWNED", exitCode: 1, cause: { rc: 0x9a2 } });
        expect(`${error}`).not.toMatch(new RegExp(`${toHex(own.ownerAuth)}|${toHex(other.ownerAuth)}`));
      }
    });
    await expectOwned(other);
  });

  test("I2: a TPM whose lockout somebody else has taken, and not its owner, is refused before anything is set", async () => {
    await withTss(tpm, (tss) => tss.hierarchyChangeAuth("lockout", other.lockoutAuth));
    await withTss(tpm, async (tss) => {
      await expect(take(tss)).rejects.toMatchObject({ code: "ERR_SEAL_OWNED" });
      expect((await readPermanent(tss)) & BOTH).toBe(PERMANENT.lockoutAuthSet);
    });
  });

  test("I2, its limit: with our owner and a foreign lockout it says nothing, for a try would cost the TPM's only one", async () => {
    await withTss(tpm, async (tss) => {
      await tss.hierarchyChangeAuth("owner", own.ownerAuth);
      await tss.hierarchyChangeAuth("lockout", other.lockoutAuth);
    });
    await withTss(tpm, (tss) => take(tss));
    await expectOwned({ ...other, ownerAuth: own.ownerAuth });
  });
});

describe("a TPM that is owned", () => {
  beforeEach(() => withTss(tpm, (tss) => take(tss)));

  test.each(["p384", "rsa2048"] as const)(
    "I2: still unseals by itself under the %s EK, boot after boot",
    async (ek) => {
      const sealed = await withTss(tpm, (tss) => sealFor(tss, keys, { ek }));
      for (let boots = 0; boots < 2; boots++) {
        await boot(tpm);
        const credential = { sealed, release, anchors: keys.anchors };
        expect(await withTss(tpm, (tss) => openPackage(tss, credential))).toEqual(PIN);
      }
    },
  );

  test("I9: still attests, and opens a credential for its EK", async () => {
    await using agent = await openTpm({ tcti: tpm.tcti });
    await using key = await agent.createAttestationKey();
    const nonce = new Uint8Array(32).fill(3);
    expect((await agent.quote(key, nonce, "sha256", [0, 13])).signature.length).toBeGreaterThan(64);
    for (const kind of ["p384", "rsa2048"] as const) {
      const ek = parseTpmPublic((await agent.endorsementKey(kind)).publicArea);
      const { credentialBlob, encryptedSecret } = await makeCredential(ek, key.name, nonce);
      expect(await agent.activateCredential(key, credentialBlob, encryptedSecret, kind)).toEqual(nonce);
    }
  });

  test("I2: is provisioned again only by who has the owner's authorisation", async () => {
    await withTss(tpm, async (tss) => {
      await tss.setAuth("owner", own.ownerAuth);
      await using index = await tss.trFromTpmPublic(EPOCH_INDEX);
      await tss.nvUndefineSpace(index);
    });
    const provision = (tss: Tss) => provisionEpoch(tss, keys.root.spkiPem, release.delegation);
    expect(await answerOf(withTss(tpm, provision))).toBe("0x9a2");
    await withTss(tpm, async (tss) => {
      await tss.setAuth("owner", own.ownerAuth);
      await provision(tss);
    });
  });

  test("I11: is cleared by who has the lockout's authorisation, and is then without an owner", async () => {
    await withTss(tpm, async (tss) => {
      await tss.setAuth("lockout", own.lockoutAuth);
      await tss.clear("lockout");
      expect((await readPermanent(tss)) & BOTH).toBe(0);
      await take(tss, other);
    });
    await expectOwned(other);
  });
});

describe("the escrow", () => {
  const ekName = new Uint8Array(50).fill(7).with(0, 0).with(1, 0x0c);

  test("both authorisations follow from the secret by HMAC-SHA256 over their labels", () => {
    const hmac = (label: string) => createHmac("sha256", SECRET).update(label).digest("hex");
    expect(toHex(own.ownerAuth)).toBe(hmac("ironclaw/owner/v1"));
    expect(toHex(own.lockoutAuth)).toBe(hmac("ironclaw/lockout/v1"));
  });

  test("I4: a secret that was not made for it gives none, and one that was is told apart from a verifier's challenge", () => {
    for (const secret of [new Uint8Array(), SECRET.subarray(1), new Uint8Array(32), new Uint8Array([...SECRET, 0])]) {
      expect(isOwnershipSecret(secret)).toBe(false);
      expect(() => deriveOwnership(secret)).toThrow(expect.objectContaining({ code: "ERR_SEAL_INPUT" }));
    }
    expect(isOwnershipSecret(SECRET)).toBe(true);
    expect(createOwnershipSecret()).not.toEqual(SECRET);
  });

  test("I11: what is written is read, in its one encoding", () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ minLength: 24, maxLength: 24 }),
        fc.constantFrom(ekName, ekName.slice(0, 34)),
        (random, name) => {
          const escrow = { ekName: toHex(name), secret: concatBytes(utf8("IRONOWN1"), random) };
          expect(parseEscrow(encodeEscrow(escrow))).toEqual(escrow);
        },
      ),
    );
  });

  test("I4: any other file is a typed error, which does not say what the file holds", () => {
    const good = encodeEscrow({ ekName: toHex(ekName), secret: SECRET });
    const mutated = fc.tuple(fc.nat(good.length - 1), fc.nat(255)).map(([at, to]) => good.with(at, to));
    fc.assert(
      fc.property(fc.oneof(mutated, fc.uint8Array({ maxLength: 100 })), (input) => {
        try {
          expect(encodeEscrow(parseEscrow(input))).toEqual(input);
        } catch (error) {
          expect(error).toBeInstanceOf(PolicyError);
          expect(`${error}`).not.toContain(toHex(SECRET).slice(16, 24));
        }
      }),
      { numRuns: 300 },
    );
    expect(() => parseEscrow(utf8("{}"))).toThrow(PolicyError);
    const swapped = new TextDecoder().decode(good).replace(toHex(own.ownerAuth), toHex(own.lockoutAuth));
    expect(() => parseEscrow(utf8(swapped))).toThrow(PolicyError);
  });

  test("another secret than one made for that, or another Name, is not written", () => {
    const escrow = { ekName: toHex(ekName), secret: SECRET };
    for (const secret of [SECRET.slice(1), new Uint8Array(32)])
      expect(() => encodeEscrow({ ...escrow, secret })).toThrow(SealError);
    expect(() => encodeEscrow({ ...escrow, ekName: "0b" })).toThrow(PolicyError);
  });
});
