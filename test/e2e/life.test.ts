import { copyFileSync, mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openMachine } from "../../agent/cli/machine-ports.ts";
import type { Finding } from "../../agent/doctor/index.ts";
import { parseCel, parseEvidence } from "../../attest/index.ts";
import { type PolicyDocument, WEAKER_GUARANTEES } from "../../policy/index.ts";
import { loadSigningKey, openStoreFile, Store, sealOffline } from "../../seal/index.ts";
import { SCOPED_UID } from "../../vm-images/story/demo-policy.ts";
import { Progress } from "../../vm-images/story/progress.ts";
import { type LaunchOutcome, type RunningMachine, startMachine } from "../../vm-images/story/running.ts";
import { useScopes } from "../../vm-images/story/scoped-use.ts";
import { PLACES, prepare } from "../../vm-images/story/story.ts";
import { attest, endorse, enrol } from "../../vm-images/story/verifier.ts";
import { cli } from "../support/cli.ts";
import { SWITCHES } from "../support/guest-switches.ts";

const directory = mkdtempSync(join(tmpdir(), "life-"));
const at = (name: string) => join(directory, name);
const operator = join(PLACES.keys, "operator.pem");
/** The scope that is frozen, and the one beside it. */
const [FROZEN, OTHER] = ["release-signing", "document-signing"];
/** The audit log's head is in the TPM at the latest after ten seconds, and a generation is settled sooner; a slow machine gets more. */
const PATIENCE = 60_000;

let stage: Awaited<ReturnType<typeof prepare>>;

beforeAll(async () => {
  const freezable = (policy: PolicyDocument) => ({
    ...policy,
    scopes: policy.scopes.map((scope) => (scope.name === FROZEN ? { ...scope, freezeBit: 1 } : scope)),
  });
  stage = await prepare(new Progress({ write: () => true }), directory, "demo", { policy: freezable });
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

interface Run {
  readonly running: RunningMachine;
  readonly launch: LaunchOutcome;
  /** Directory of the machine's ports, for commands. */
  readonly ports: string;
}

/** One boot of the same machine: its TPM goes on, and its disks do unless others are given. */
async function boot<T>(
  name: string,
  use: (run: Run) => Promise<T>,
  state = stage.disks.state,
  store = stage.disks.store,
): Promise<T> {
  const ports = at(name);
  const running = await startMachine({
    ...{ image: stage.image, contents: stage.machine.contents, tpmDirectory: stage.tpm.directory, directory: ports },
    disks: { state, store },
  });
  try {
    return await use({ running, launch: await running.launched(), ports });
  } finally {
    await running.stop();
  }
}

const codesOf = ({ reasons }: LaunchOutcome) => reasons.map((reason) => (reason as { readonly code: string }).code); // as the agent writes them

/** A command that talks to the running machine; its ports take one connection at a time. */
async function ironclaw({ running, ports }: Run, ...words: string[]) {
  running.control.close();
  const { code, out, err } = await cli([...words, "--machine", ports, "--json"]);
  expect({ words, code, err }).toEqual({ words, code: expect.any(Number), err: "" });
  return { code, facts: JSON.parse(out) as Record<string, unknown> };
}

async function sealNextPin(): Promise<string> {
  const root = await loadSigningKey(join(PLACES.keys, "root.pem"));
  const envelope = await sealOffline({
    ekCertificate: stage.tpm.ekCertificates.p384,
    secret: stage.machine.pin.slice(),
    rootKeyPem: root.spkiPem,
    label: { name: "hsm-pin", kind: "pin", generation: 2, notAfter: null, tokenSerial: stage.machine.token.serial },
    operator: await loadSigningKey(operator),
  });
  writeFileSync(at("sealed-2.json"), envelope);
  return at("sealed-2.json");
}

function storeEntries() {
  const medium = openStoreFile(stage.disks.store);
  try {
    return Store.open(medium).store.content.entries.map(
      ({ name, generation, state }) => `${name} ${generation} ${state}`,
    );
  } finally {
    medium.close();
  }
}

/** What a workload of the scopes' caller is answered when it asks for a signature. */
async function signs(running: RunningMachine, scope: string): Promise<string> {
  const workload = await running.workload(SCOPED_UID);
  const mechanism = scope === FROZEN ? "CKM_ECDSA" : "CKM_RSA_PKCS";
  try {
    await workload.request("native-sign", { scope, mechanism, digest: "5a".repeat(32) });
    return "signed";
  } catch (error) {
    return error instanceof Error ? error.message : "";
  } finally {
    workload.close();
  }
}

/** The events of a fresh report's agent log, and what a verifier that knows the release makes of it. */
async function reported({
  running,
  ports,
}: Run): Promise<{ readonly events: readonly string[]; readonly tier: string }> {
  running.control.close();
  const control = await openMachine(ports);
  try {
    const enrolment = await enrol(stage.machine.name, await endorse(stage.tpm), control);
    const { report, result } = await attest(control, enrolment, stage.machine);
    const events = parseCel(parseEvidence(report).agentLog).map(({ event: { kind, name } }) => `${kind} ${name}`);
    return { events, tier: result.tier };
  } finally {
    control.close();
  }
}

/** Every socket of these kinds, below a heading. */
const SOCKET_LISTS = ["tcp", "tcp6", "udp", "udp6", "raw", "raw6"].map((name) => `/proc/net/${name}`);

/** What a workload of this machine reads in these files. */
async function readInGuest(running: RunningMachine, paths: readonly string[]): Promise<Record<string, string>> {
  const workload = await running.workload(SCOPED_UID);
  try {
    const read = async (path: string) => String((await workload.request("read", { path }))["content"]).trim();
    const contents: Record<string, string> = {};
    for (const path of paths) contents[path] = await read(path);
    return contents;
  } finally {
    workload.close();
  }
}

describe("the life of a machine", () => {
  const earlier = () => at("earlier/state.img");
  const earlierStore = () => at("earlier/store.img");
  let records = 0;
  let frozen: { answers: string[]; events: readonly string[]; tier: string };
  let kernel: Readonly<Record<string, string>> = {};
  let network: Readonly<Record<string, string>> = {};
  let own: Readonly<Record<string, string>> = {};
  let weaker: readonly Finding[] = [];

  it("I11: the first boot sets up counter, records and state volume; a reseal is pending until a boot has served with it", async () => {
    await boot("one", async (run) => {
      expect(run.launch).toMatchObject({ state: "serving", reasons: [] });
      await expect.poll(storeEntries, { timeout: PATIENCE }).toEqual(["hsm-pin 1 served", "state 1 served"]);
      const { facts } = await ironclaw(run, "reseal", "--sealed", await sealNextPin());
      expect(facts).toMatchObject({ act: "pending", name: "hsm-pin", generation: 2 });
      expect(storeEntries()).toEqual(["hsm-pin 1 served", "hsm-pin 2 pending", "state 1 served"]);
      const { findings } = (await ironclaw(run, "doctor")).facts as { findings: readonly Finding[] };
      weaker = findings.filter(({ id }) => WEAKER_GUARANTEES.some(({ name }) => name === id));
      const check = await ironclaw(run, "unseal", "--check");
      expect(check).toMatchObject({ code: 1, facts: { wouldUnseal: false } });
      expect(JSON.stringify(check.facts)).toContain("agent-pcr-capped");
    });
    mkdirSync(dirname(earlier()), { recursive: true });
    copyFileSync(stage.disks.state, earlier());
    copyFileSync(stage.disks.store, earlierStore());
  });

  it("I11: the next boot serves with the new generation, and the old one is gone; I8: the audit log goes on and is anchored", async () => {
    await boot("two", async (run) => {
      expect(run.launch).toMatchObject({ state: "serving", reasons: [] });
      await expect.poll(storeEntries, { timeout: PATIENCE }).toEqual(["hsm-pin 2 served", "state 1 served"]);
      const use = await useScopes(run.running, stage.machine.token);
      expect(use.signatures.every(({ verified }) => verified)).toBe(true);
      records = use.deniedCaller.auditSeq;
      kernel = await readInGuest(run.running, Object.keys(SWITCHES));
      network = await readInGuest(run.running, ["/proc/net/dev", "/sys/class/net/lo/flags", ...SOCKET_LISTS]);
      own = await readInGuest(run.running, ["/proc/modules", "/proc/cmdline", "/proc/meminfo"]);
      await expect
        .poll(async () => anchoredSeq(await run.running.control.sealing("records")), {
          timeout: PATIENCE,
          interval: 1000,
        })
        .toBeGreaterThanOrEqual(records);
      const { code, facts } = await ironclaw(run, "freeze", "--scope", FROZEN);
      expect([code, facts["scopes"]]).toEqual([0, [FROZEN]]);
    });
    expect(records).toBeGreaterThan(0);
  });

  it("I4 I5: in that boot no process can be traced, root's neither, no core is written, and no code comes into the kernel", () => {
    expect(kernel).toEqual(SWITCHES);
  });

  it("I5: of what another system may lack it lacks nothing, by its own doctor: root, memory, traces, modules, swap, dumps, measured boot", () => {
    expect(weaker.map(({ id, level }) => `${id} ${level}`).sort()).toEqual(
      WEAKER_GUARANTEES.map(({ name }) => `${name} ok`).sort(),
    );
  });

  it("I5: that machine has no network: no interface but loopback, and that one down", () => {
    const interfaces = (network["/proc/net/dev"] ?? "")
      .split("\n")
      .flatMap((line) => /^ *(\S+):/.exec(line)?.[1] ?? []);
    expect(interfaces).toEqual(["lo"]);
    expect(Number(network["/sys/class/net/lo/flags"]) & 1).toBe(0);
  });

  it("I5: no port is open in it, of any protocol that its kernel has", () => {
    const lists = SOCKET_LISTS.map((path) => (network[path] ?? "").split("\n"));
    // a heading, and no socket
    expect(lists.map((lines) => [lines.length, /local_address/.test(lines[0] ?? "")])).toEqual(
      SOCKET_LISTS.map(() => [1, true]),
    );
  });

  it("I12: its kernel was told what the manifest says, and has the initrd's modules loaded and no other", () => {
    const { commandLine, initrd } = stage.image.manifest;
    expect(own["/proc/cmdline"]).toBe(commandLine);
    expect(commandLine.split(" ")).toEqual(expect.arrayContaining(["lockdown=confidentiality", "init_on_free=1"]));
    const loaded = (own["/proc/modules"] ?? "").split("\n").map((line) => line.split(" ")[0] ?? "");
    const packed = initrd.flatMap(({ path }) => {
      const [, name, flag] = /^\/modules\/\d+-([^@]+?)(?:@(\w+))?\.ko$/.exec(path) ?? [];
      return name === undefined ? [] : [{ name, flag }];
    });
    expect(packed.map(({ name }) => name)).toEqual(expect.arrayContaining(loaded));
    // one with a flag is for processors that have it
    const always = packed.filter(({ flag }) => flag === undefined).map(({ name }) => name);
    expect(loaded).toEqual(expect.arrayContaining(always));
    console.info(
      `memory of the guest while it serves: ${(own["/proc/meminfo"] ?? "").split("\n").slice(0, 3).join(", ")}`,
    );
  });

  it("I8: an earlier copy of the state volume is told apart and refused, and a scope that was frozen meanwhile stays so", async () => {
    await boot(
      "three",
      async (run) => {
        expect(run.launch.state).toBe("refused");
        expect(codesOf(run.launch)).toEqual(["audit-rolled-back"]);
        const { facts } = await ironclaw(run, "freeze", "--status");
        expect(facts).toMatchObject({ all: false, bits: "0000000000000002" });
      },
      earlier(),
      earlierStore(),
    );
  });

  it("I8: a blank disk in its place is refused until the operator orders a new volume", async () => {
    const blank = at("blank.img");
    writeFileSync(blank, "");
    await boot(
      "four",
      async (run) => {
        expect(codesOf(run.launch)).toEqual(["state-blank"]);
        const { code } = await ironclaw(run, "order", "new-volume", "--operator", operator);
        expect(code).toBe(0);
      },
      blank,
    );
    await boot(
      "five",
      async (run) => {
        expect(run.launch).toMatchObject({ state: "serving", reasons: [] });
        expect(anchoredSeq(await run.running.control.sealing("records"))).toBeLessThan(records);
        frozen = {
          ...(await reported(run)),
          answers: [await signs(run.running, FROZEN), await signs(run.running, OTHER)],
        };
        const order = ["order", "unfreeze", "--bit", "1", "--operator", operator];
        expect((await ironclaw(run, ...order)).code).toBe(0);
        frozen.answers.push(await signs(run.running, FROZEN));
      },
      blank,
      earlierStore(),
    );
    expect(statSync(blank).size).toBeGreaterThan(0);
  });

  it("I8: in that boot, with a new state volume and an earlier store, the scope was still frozen: refused, and in the report; the one beside it was not", () => {
    expect(frozen.answers).toEqual([expect.stringMatching(/frozen/i), "signed", expect.stringMatching(/frozen/i)]);
    expect(frozen.events).toContain(`narrowed freeze ${FROZEN}`);
    expect(frozen.tier).toBe("affirming");
  });

  it("I8: only the operator's order ends it, with the next boot", async () => {
    await boot(
      "six",
      async (run) => {
        expect(run.launch).toMatchObject({ state: "serving", reasons: [] });
        expect(await signs(run.running, FROZEN)).toBe("signed");
        expect((await reported(run)).events).not.toContain(`narrowed freeze ${FROZEN}`);
      },
      at("blank.img"),
      earlierStore(),
    );
  });
});

/** Sequence number in the anchor's 64 bytes: 8 of version, 16 of volume id, then u64. */
function anchoredSeq({ anchor }: Readonly<Record<string, unknown>>): number {
  return typeof anchor === "string" ? Number(BigInt(`0x${anchor.slice(48, 64)}`)) : -1;
}
