import { execFile } from "node:child_process";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { celRecord } from "../../attest/cel.ts";
import { collectEvidence } from "../../attest/collect.ts";
import { type Credential, makeCredential } from "../../attest/credential.ts";
import { parseDer } from "../../attest/der.ts";
import { parseCertificateFields } from "../../attest/ek-certificate.ts";
import { type Endorsement, verifyEndorsement } from "../../attest/endorsement.ts";
import type { TrustAnchor } from "../../attest/endorsement-chain.ts";
import { createEnrolment } from "../../attest/enrol.ts";
import { defaultQuotePcrs } from "../../attest/evidence.ts";
import { launchEventDigests } from "../../attest/launch-events.ts";
import { parseTpmPublic, tpmName } from "../../attest/tpm-structures.ts";
import { machineUeid, verifyEvidence } from "../../attest/verify.ts";
import { ByteWriter, concatBytes, fromHex, IronclawError, toHex, utf8 } from "../../policy/index.ts";
import { makeClaims, nonce, servingEvents } from "../support/evidence-maker.ts";
import { logHeader } from "../support/firmware-log-writer.ts";
import { type SoftwareTpm, startSwtpm } from "../support/swtpm.ts";

const run = promisify(execFile);
const at = new Date("2030-01-01T00:00:00Z");
const events = servingEvents();

/** The attestation key of a real (software) TPM, driven by tpm2-tools and not by our own binding. */
const akAttributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign";

let tpm: SoftwareTpm;
let akPublic: Uint8Array;
const ek: Record<string, { der: Uint8Array; publicArea: Uint8Array; endorsement: Endorsement; handle: string }> = {};

const file = (name: string) => join(tpm.directory, name);
const read = async (name: string) => new Uint8Array(await readFile(file(name)));
/** There is no resource manager in between: what a tool leaves loaded is flushed at once. */
async function tool(name: string, ...args: readonly string[]): Promise<void> {
  try {
    await run(name, ["-T", tpm.tcti, ...args], { cwd: tpm.directory });
  } finally {
    await run("tpm2_flushcontext", ["-T", tpm.tcti, "-t"]);
  }
}

async function anchors(changes: Partial<TrustAnchor> = {}): Promise<TrustAnchor[]> {
  const pem = await readFile(tpm.caFiles[1] ?? "", "utf8");
  return [
    {
      name: "swtpm",
      pem,
      assurance: "software-tpm",
      requireEkPurpose: true,
      manufacturers: ["id:00001014"],
      ...changes,
    },
  ];
}

beforeAll(async () => {
  tpm = await startSwtpm();
  await tool(
    "tpm2_createprimary",
    ..."-C e -g sha256 -G ecc256:ecdsa-sha256:null -a".split(" "),
    akAttributes,
    "-c",
    "ak.ctx",
  );
  await tool("tpm2_readpublic", "-c", "ak.ctx", "-o", "ak.pub");
  akPublic = (await read("ak.pub")).slice(2);
  for (const [kind, handle, index] of [
    ["rsa", "0x81010001", "0x01c00002"],
    ["p384", "0x81010016", "0x01c00016"],
  ] as const) {
    await tool("tpm2_nvread", "-o", `${kind}.der`, index);
    await tool("tpm2_readpublic", "-c", handle, "-o", `${kind}.pub`);
    const der = await read(`${kind}.der`);
    const endorsement = verifyEndorsement([der], await anchors(), at);
    ek[kind] = { der, publicArea: (await read(`${kind}.pub`)).slice(2), endorsement, handle };
  }
});
afterAll(async () => {
  await tpm.stop();
});

const ekOf = (kind: string) => {
  const found = ek[kind];
  if (found === undefined) throw new Error(`no ${kind}`);
  return found;
};

describe.each(["rsa", "p384"])("an EK certificate (%s)", (kind) => {
  it("I9: the EK's public area and Name follow from the certificate alone", () => {
    const { endorsement, publicArea } = ekOf(kind);
    expect(toHex(endorsement.ekPublicArea)).toBe(toHex(publicArea));
    expect(toHex(endorsement.ekName)).toBe(toHex(tpmName(publicArea)));
    expect(endorsement.manufacturer).toBe("id:00001014");
    expect(endorsement.assurance).toBe("software-tpm");
  });

  it("I9: MakeCredential is opened by TPM2_ActivateCredential of that TPM, for that AK", async () => {
    const secret = crypto.getRandomValues(new Uint8Array(32));
    const credential = await makeCredential(ekOf(kind).endorsement.ekPublic, tpmName(akPublic), secret);
    expect(toHex(await activate(kind, credential))).toBe(toHex(secret));
  });

  it("I9: a credential for another AK is not opened", async () => {
    const name = tpmName(akPublic).with(33, (tpmName(akPublic)[33] ?? 0) ^ 1);
    const credential = await makeCredential(ekOf(kind).endorsement.ekPublic, name, new Uint8Array(32));
    await expect(activate(kind, credential)).rejects.toThrow(/integrity/);
  });

  it("I9: it verifies under the root through its issuer, and not under an unrelated authority", async () => {
    const [rootFile = "", issuerFile = ""] = tpm.caFiles;
    const issuer = new Uint8Array(
      (await run("openssl", ["x509", "-in", issuerFile, "-outform", "DER"], { encoding: "buffer" })).stdout,
    );
    const root = await readFile(rootFile, "utf8");
    const { der } = ekOf(kind);
    expect(verifyEndorsement([der, issuer], await anchors({ pem: root }), at).anchor).toBe("swtpm");
    expect(() => verifyEndorsement([der], [], at)).toThrow(IronclawError);
    const cut = await anchors({ pem: root });
    expect(() => verifyEndorsement([der], cut, at)).toThrow(/pinned authority/);
    await using other = await startSwtpm();
    const foreign = await anchors({ pem: await readFile(other.caFiles[1] ?? "", "utf8") });
    expect(() => verifyEndorsement([der], foreign, at)).toThrow(/pinned authority/);
  });

  it("I9: dates, manufacturer and chain length are checked", async () => {
    const { der } = ekOf(kind);
    const pinned = await anchors();
    expect(() => verifyEndorsement([der], pinned, new Date("2000-01-01T00:00:00Z"))).toThrow(/dates/);
    const infineon = await anchors({ manufacturers: ["id:49465800"] });
    expect(() => verifyEndorsement([der], infineon, at)).toThrow(/tpmManufacturer/);
    expect(() => verifyEndorsement([], pinned, at)).toThrow(IronclawError);
    expect(() =>
      verifyEndorsement(
        Array.from({ length: 9 }, () => der),
        pinned,
        at,
      ),
    ).toThrow(/1 to 8/);
  });

  it("I10: a cut or changed certificate ends in a typed error", async () => {
    const { der } = ekOf(kind);
    const pinned = await anchors();
    for (let offset = 0; offset < der.length; offset += 7) {
      for (const changed of [der.slice(0, offset), der.map((byte, index) => (index === offset ? byte ^ 0x55 : byte))]) {
        expect(() => verifyEndorsement([changed], pinned, at), `offset ${offset}`).toThrow(IronclawError);
      }
    }
  });
});

describe("certificates that are no EK certificates", () => {
  it("I9: an issuer's own certificate is not an EK's", async () => {
    const [rootFile = "", issuerFile = ""] = tpm.caFiles;
    const issuer = new Uint8Array(
      (await run("openssl", ["x509", "-in", issuerFile, "-outform", "DER"], { encoding: "buffer" })).stdout,
    );
    const root = await anchors({ pem: await readFile(rootFile, "utf8") });
    expect(() => verifyEndorsement([issuer], root, at)).toThrow(/end entity/);
    expect(parseCertificateFields(issuer).mayIssue).toBe(true);
  });

  it("I10: DER of other shapes ends in a typed error", () => {
    for (const hex of [
      "",
      "30",
      "3080",
      "3081",
      "308100",
      "30820001",
      "3084ffffffff",
      "1f8100",
      "3003020101ff",
      "0000",
    ]) {
      expect(() => parseCertificateFields(fromHex(hex)), hex).toThrow(IronclawError);
    }
    expect(() => parseDer(new Uint8Array(1 << 20).fill(0x30))).toThrow(IronclawError);
  });
});

describe("a quote of a real TPM", () => {
  it("I9: evidence collected from it verifies, and only for its own enrolment and nonce", async () => {
    for (const { sha256, sha384 } of events.map(launchEventDigests)) {
      await tool("tpm2_pcrextend", `13:sha256=${toHex(sha256)},sha384=${toHex(sha384)}`);
    }
    const enrolment = createEnrolment("m1", ekOf("p384").endorsement, akPublic);
    const records = events.map((event, index) => celRecord(index, 13, event));
    const claims = makeClaims({
      events,
      launch: "serving",
      asserted: {},
      claims: { ueid: machineUeid(ekOf("p384").endorsement.ekName) },
    });
    const key = {
      publicArea: akPublic,
      name: tpmName(akPublic),
      handle: 0,
      [Symbol.asyncDispose]: async () => undefined,
    };
    const sources = {
      ekCertificates: [ekOf("p384").der],
      firmwareLog: logHeader(),
      locked: <T>(act: (log: typeof records) => Promise<T>) => act(records),
      claims: () => claims,
    };
    for (const bank of ["sha256", "sha384"] as const) {
      const challenge = { nonce, bank, pcrs: defaultQuotePcrs };
      const evidence = await collectEvidence(tools, key, sources, challenge);
      const verified = await verifyEvidence(evidence, challenge, enrolment, null);
      expect(verified.assurance).toBe("software-tpm");
      expect(verified.quote.clockInfo.resetCount).toBeGreaterThan(0);
      const stale = { ...challenge, nonce: new Uint8Array(32) };
      await expect(verifyEvidence(evidence, stale, enrolment, null)).rejects.toThrow(/extra-data/);
    }
  });

  it("I9: an AK that is a child of the EK has another qualified Name and is refused", async () => {
    await tool("tpm2_createek", "-c", "ek.ctx", "-G", "rsa", "-u", "ek.pub");
    await tool("tpm2_createak", ..."-C ek.ctx -c child.ctx -G ecc -g sha256 -s ecdsa -u child.pub".split(" "));
    const child = (await read("child.pub")).slice(2);
    expect(parseTpmPublic(child).kind).toBe("ecc");
    const enrolment = createEnrolment("m1", ekOf("rsa").endorsement, child);
    const claims = makeClaims({ events: [], launch: "booted", asserted: { tokens: [], keys: [] }, claims: {} });
    const key = { publicArea: child, name: tpmName(child), handle: 0, [Symbol.asyncDispose]: async () => undefined };
    const sources = {
      ekCertificates: [],
      firmwareLog: logHeader(),
      locked: <T>(act: (log: never[]) => Promise<T>) => act([]),
      claims: () => claims,
    };
    const challenge = { nonce, bank: "sha256" as const, pcrs: [14] };
    const evidence = await collectEvidence(
      { ...tools, quote: (_key, extra, bank, pcrs) => quoteWith("child.ctx", extra, bank, pcrs) },
      key,
      sources,
      challenge,
    );
    await expect(verifyEvidence(evidence, challenge, enrolment, null)).rejects.toThrow(/qualified-signer/);
  });
});

const tools: Parameters<typeof collectEvidence>[0] = {
  async pcrRead(bank, pcrs) {
    await tool("tpm2_pcrread", `${bank}:${pcrs.join(",")}`, "-F", "values", "-o", "pcrs.bin");
    const size = bank === "sha256" ? 32 : 48;
    const bytes = await read("pcrs.bin");
    return new Map(pcrs.map((pcr, index) => [pcr, bytes.slice(index * size, (index + 1) * size)]));
  },
  quote: (_key, extraData, bank, pcrs) => quoteWith("ak.ctx", extraData, bank, pcrs),
};

async function quoteWith(key: string, extraData: Uint8Array, bank: string, pcrs: readonly number[]) {
  const args = [
    "-c",
    key,
    "-l",
    `${bank}:${pcrs.join(",")}`,
    "-q",
    toHex(extraData),
    "-g",
    "sha256",
    "-m",
    "quote.msg",
    "-s",
    "quote.sig",
  ];
  await tool("tpm2_quote", ...args);
  return { attest: await read("quote.msg"), signature: await read("quote.sig") };
}

async function activate(kind: string, { credentialBlob, encryptedSecret }: Credential): Promise<Uint8Array> {
  const blob = new ByteWriter().u32(0xbadcc0de).u32(1).sized16(credentialBlob).sized16(encryptedSecret).finish();
  await writeFile(file("credential.blob"), concatBytes(blob, utf8("")));
  const arguments_ = ["-c", "ak.ctx", "-C", ekOf(kind).handle, "-i", "credential.blob", "-o", "secret.bin"];
  if (kind === "rsa") {
    await tool("tpm2_startauthsession", "--policy-session", "-S", "session.ctx");
    await tool("tpm2_policysecret", "-S", "session.ctx", "-c", "e");
    try {
      await tool("tpm2_activatecredential", ...arguments_, "-P", "session:session.ctx");
    } finally {
      await tool("tpm2_flushcontext", "session.ctx");
    }
  } else await tool("tpm2_activatecredential", ...arguments_);
  return read("secret.bin");
}
