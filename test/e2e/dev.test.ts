import { randomBytes } from "node:crypto";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  appraise,
  type CelRecord,
  defaultAppraisalPolicy,
  defaultQuotePcrs,
  type Enrolment,
  type PcrBank,
  parseCel,
  parseEvidence,
  parseFirmwareLog,
  replayCel,
  verifyEvidence,
} from "../../attest/index.ts";
import {
  type Anchors,
  firstModule,
  parseAnchors,
  parseBundle,
  parsePolicy,
  preUnsealKinds,
  type Release,
  sha256Hex,
  toHex,
  verifyRelease,
} from "../../policy/index.ts";
import { openStoreFile, openTpm, Store, unsealRequest, verifySealedPackage } from "../../seal/index.ts";
import { TCG } from "../../vm-images/acceleration.ts";
import { INTRUDER_UID, SCOPED_UID } from "../../vm-images/story/demo-policy.ts";
import { countPinCopies } from "../../vm-images/story/pin-copies.ts";
import { Progress } from "../../vm-images/story/progress.ts";
import { type RunningMachine, startMachine } from "../../vm-images/story/running.ts";
import { prepare } from "../../vm-images/story/story.ts";
import { attest, endorse, enrol, type Verdict } from "../../vm-images/story/verifier.ts";
import { startSwtpm } from "../../vm-images/swtpm.ts";
import { TOKEN_DIRECTORY } from "../../vm-images/token/token.ts";
import { DevShell } from "../support/dev-shell.ts";
import type { ScannedProcess } from "../support/guest-memory.ts";
import type { OpenOrder, OpenResult } from "../support/guest-open.ts";
import type { ScanOrder, ScanResult } from "../support/guest-scan.ts";
import { measured } from "../support/measured-pcrs.ts";
import {
  counted,
  inAllEncodings,
  maskedNeedle,
  pinNeedles as needlesOf,
  newCanary,
  nothing,
  total,
} from "../support/pin-needles.ts";
import { tryUnseal } from "../support/seal-fixture.ts";

// One `dev` machine for all of this file; each part leaves it as the next one needs it, and the last one ends it.

const AGENT_UID = 990;
const SHIM_UID = 991;
/** One that works and one in reserve. */
const SHIMS = 2;
const TPM_RC_POLICY_FAIL = "0x0000099d";
const TPM_RC_LOCALITY = 0x907;

const program = (name: string) => join(import.meta.dirname, "../support", name);

let directory: string;
let stage: Awaited<ReturnType<typeof prepare>>;
let running: RunningMachine;
let enrolment: Enrolment;
let verdict: Verdict;
let shell: DevShell;
let release: Release;
let anchors: Anchors;
let request: Uint8Array;
let agentLog: readonly CelRecord[];

function slot(name: "policy" | "sealed"): Uint8Array {
  const bytes = stage.machine.contents.get(name);
  if (bytes === undefined) throw new Error(`no slot ${name}`);
  return bytes;
}

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "ironclaw-"));
  stage = await prepare(new Progress({ write: () => true }), directory, "dev");
  const { image, tpm, machine } = stage;
  anchors = parseAnchors(machine.anchors);
  release = await verifyRelease(machine.release, anchors.releaseRoot);
  const vm = join(directory, "vm");
  running = await startMachine({
    ...{ image, contents: machine.contents, tpmDirectory: tpm.directory, directory: vm },
    acceleration: { ...TCG, processors: 2 }, // the one machine of the tests with more than one
  });
  expect(await running.launched()).toMatchObject({ state: "serving", reasons: [] });
  enrolment = await enrol(machine.name, await endorse(tpm), running.control);
  verdict = await attest(running.control, enrolment, machine);
  agentLog = parseCel(parseEvidence(verdict.report).agentLog);
  shell = await DevShell.open(await running.vm.port("ironclaw.shell"));
  request = await genuineRequest(join(vm, "store.img"));
});

it("I12: the machine has measured in both banks what was predicted before it was booted, the agent PCR too", async () => {
  const { machine } = stage;
  const verdicts = { sha256: verdict, sha384: await attest(running.control, enrolment, machine, "sha384") };
  for (const bank of ["sha256", "sha384"] as const)
    expect([bank, measured(verdicts[bank], bank)]).toEqual([bank, machine.prediction.pcrs[bank]]);
});

/** As the launch made it: with the private area that it imported, which the machine's store holds and any disk thief has. */
async function genuineRequest(store: string): Promise<Uint8Array> {
  const files = parseBundle(slot("sealed"));
  const pin = files.find(({ path }) => path === "/hsm-pin.json")?.bytes ?? new Uint8Array();
  const medium = openStoreFile(store);
  try {
    const { content } = Store.open(medium).store;
    const imported = content.entries.find(({ name }) => name === "hsm-pin")?.imported;
    if (imported == null) throw new Error("store: no imported private area of hsm-pin");
    return unsealRequest({ sealed: await verifySealedPackage(pin, anchors), imported, release, anchors });
  } finally {
    medium.close();
  }
}

/** Ids of the processes that run under this uid, the oldest first. */
async function processesOf(uid: number): Promise<string[]> {
  const list = await shell.output(
    "cd /proc; for p in [0-9]*; do echo \"$(sed -n 's/^Uid:.\\([0-9]*\\).*/\\1/p' $p/status) $p\"; done",
  );
  const owners = list.split("\n").map((line) => line.split(" "));
  const own = owners.flatMap(([owner, pid = ""]) => (Number(owner) === uid ? [pid] : []));
  return own.sort((a, b) => Number(a) - Number(b));
}

afterAll(async () => {
  shell?.close();
  await running?.stop();
  if (directory !== undefined) await rm(directory, { recursive: true, force: true });
});

describe("a verifier", () => {
  it("I9: of releases refuses a dev image and a software TPM by default; the demo's policy accepts both by name", async () => {
    const challenge = { nonce: verdict.nonce, bank: "sha256" as const, pcrs: defaultQuotePcrs };
    const verified = await verifyEvidence(parseEvidence(verdict.report), challenge, enrolment, null);
    const now = new Date();
    const strict = appraise(verified, [release], defaultAppraisalPolicy, { now, challenged: now });
    expect(strict.tier).toBe("contraindicated");
    expect(strict.findings.map(({ code, got }) => [code, got])).toEqual(
      expect.arrayContaining([
        ["image-variant", "dev"],
        ["assurance", "software-tpm"],
      ]),
    );
    expect(verdict.result.tier).toBe("affirming");
  });
});

describe.each([
  ["active", 0],
  ["spare", 1],
])("the %s shim, as root in the guest sees it", (_role, id) => {
  let pid: string;
  beforeAll(async () => {
    const shims = await processesOf(SHIM_UID);
    expect(shims).toHaveLength(SHIMS);
    pid = shims[id] ?? "";
  });

  it("I5: runs under its own uid, without capabilities, with three filters and no way to new privileges", async () => {
    const status = await shell.output(`cat /proc/${pid}/status`);
    const field = (name: string) =>
      new RegExp(`^${name}:[ \\t]*(.*?)[ \\t]*$`, "m").exec(status)?.[1]?.replaceAll("\t", " ");
    const uid = `${SHIM_UID} ${SHIM_UID} ${SHIM_UID} ${SHIM_UID}`;
    expect([field("Uid"), field("Gid"), field("Groups")]).toEqual([uid, uid, ""]);
    for (const set of ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"])
      expect([set, field(set)]).toEqual([set, "0".repeat(16)]);
    expect([field("Seccomp"), field("Seccomp_filters"), field("NoNewPrivs")]).toEqual(["2", "3", "1"]);
    expect(field("Threads")).toBe("1");
  });

  it("I5: has a network of its own with nothing in it but a loopback that is down", async () => {
    const links = await shell.output(`nsenter -t ${pid} -n ip link`);
    expect(links.match(/^\d+: \S+ <[^>]*>/gm)).toEqual(["1: lo: <LOOPBACK>"]);
    expect(await shell.output(`nsenter -t ${pid} -n ip route`)).toBe("");
  });

  it.each(["net", "user", "mnt", "pid", "ipc", "uts", "cgroup"])(
    "I5: shares its %s namespace with no other process",
    async (kind) => {
      const links = await shell.output(`for p in /proc/[0-9]*; do echo "$p $(readlink $p/ns/${kind})"; done`);
      const namespaces = links.split("\n").map((line) => line.split(" "));
      const own = namespaces.find(([path]) => path === `/proc/${pid}`)?.[1];
      expect(own).toMatch(/^\w+:\[\d+\]$/);
      expect(namespaces.filter(([, inode]) => inode === own)).toHaveLength(1);
    },
  );

  it("I1: sees exactly the pinned files, with the pinned content, and its token", async () => {
    const module = firstModule(parsePolicy(slot("policy")));
    const shimDigest = sha256Hex(await readFile(join(stage.image.tree, "usr/lib/ironclaw/shim")));
    const pinned = new Map([
      ...Object.entries({ ...module.closure, ...module.config, [module.path]: module.sha256 }),
      ["/shim", shimDigest],
      ["/profile", module.profile.sha256],
    ]);
    const sums = await shell.output(`cd /proc/${pid}/root/ && find . -type f -exec sha256sum {} +`);
    const found = sums.split("\n").map((line): [string, string] => [line.slice(67), line.slice(0, 64)]);
    const files = found.filter(([path]) => !path.startsWith(`${TOKEN_DIRECTORY}/`));
    expect(new Map(files.sort())).toEqual(new Map([...pinned].sort()));
    const given = stage.machine.token.files.map(({ path }) => path);
    const kept = found.map(([path]) => path).filter((path) => path.startsWith(`${TOKEN_DIRECTORY}/`));
    expect(kept.sort()).toEqual([...given].sort());
    expect(await shell.output(`find /proc/${pid}/root/ ! -type f ! -type d`)).toBe("");
  });

  it("I5: can write nowhere but in its token directory, where nothing can be executed", async () => {
    const mounts = (await shell.output(`cat /proc/${pid}/mountinfo`)).split("\n").map((line) => line.split(" "));
    expect(mounts.map(([, , , , path, options]) => [path, options?.split(",").slice(0, -1)])).toEqual([
      ["/", ["ro", "nosuid", "nodev"]],
      [TOKEN_DIRECTORY, ["rw", "nosuid", "nodev", "noexec"]],
    ]);
    const touched = await shell.run(`touch /proc/${pid}/root/x`);
    expect(touched.output).toContain("Read-only file system");
    expect(touched.code).not.toBe(0);
  });

  it("I4: has closed the pipe that the PIN came through, and holds no other descriptor", async () => {
    expect((await shell.output(`ls /proc/${pid}/fd`)).split("\n")).toEqual(["0", "1", "2", "3"]);
    expect(await shell.output(`readlink /proc/${pid}/fd/3`)).toMatch(/^socket:/);
  });
});

describe("another uid in the guest", () => {
  let paths: string[];
  let stateDisk: string;
  const open = async (order: OpenOrder) => (await shell.program(program("guest-open.ts"), order)) as OpenResult;
  const same = (value: string) => Object.fromEntries(paths.map((path) => [path, value]));

  beforeAll(async () => {
    const cabinet = await shell.output("readlink /run/ironclaw/cabinet");
    const store = await shell.output("readlink /run/ironclaw/store");
    const block = await shell.output(
      'for b in /sys/block/vd*; do [ "$(cat $b/serial)" = state ] && echo $b; done; true',
    );
    stateDisk = block.replace("/sys/block/", "/dev/");
    expect([cabinet, store, stateDisk].map((path) => path.slice(0, -1))).toEqual(Array(3).fill("/dev/vd"));
    paths = [
      "/dev/tpmrm0",
      ...[cabinet, store, stateDisk],
      "/run/ironclaw-shim",
      "/run/ironclaw-shim/0/shim",
      "/run/ironclaw/state/audit/0000000000000001.log",
      "/dev/kmsg",
    ];
  });

  it("I6: opens neither TPM nor cabinet nor store nor state disk nor the shim's directory nor the audit log nor the kernel's log", async () => {
    const { "/dev/kmsg": log, ...others } = await open({ uid: INTRUDER_UID, paths });
    const { "/dev/kmsg": _, ...expected } = same("EACCES");
    expect(others).toEqual(expected);
    expect(log).toBe("EPERM"); // dmesg_restrict
  });

  it("I6: opens no port but its own, and no block device", async () => {
    const devices = (await shell.output("ls -d /dev/vport* /dev/vd* /dev/dm-* /dev/tpm0 /dev/mem")).split("\n");
    const own = await shell.output(`readlink /dev/virtio-ports/workload.${INTRUDER_UID}`);
    const result = await open({ uid: INTRUDER_UID, paths: devices.filter((path) => path !== own) });
    expect(new Set(Object.values(result))).toEqual(new Set(["EACCES"]));
    expect(Object.keys(result).length).toBeGreaterThanOrEqual(9);
  });

  it("I6: does not even see the agent, the shim or the other workload", async () => {
    const others = (await Promise.all([AGENT_UID, SHIM_UID, SCOPED_UID].map(processesOf))).flat();
    expect(others).toHaveLength(2 + SHIMS);
    const result = await open({ uid: INTRUDER_UID, paths: others.map((pid) => `/proc/${pid}/status`) });
    expect(Object.values(result)).toEqual(others.map(() => "ENOENT"));
  });

  it("I6: is kept out by its uid alone: the agent opens its own, and root everything", async () => {
    expect(await open({ uid: 0, paths })).toEqual(same("open"));
    const agent = await open({ uid: AGENT_UID, paths });
    expect(paths.filter((path) => agent[path] === "open").sort()).toEqual(
      paths.filter((path) => !/ironclaw-shim|kmsg/.test(path) && path !== stateDisk).sort(),
    );
  });
});

/** What a process of each name has in its memory for certain: where this is not found, nothing else would be. */
const KNOWN: Readonly<Record<string, string>> = {
  spawner: "/run/ironclaw-shim",
  agent: "/etc/ironclaw/agent.json",
  shim: "SOFTHSM2_CONF=/etc/softhsm2.conf",
  "release-signer": `IRONCLAW_PORT=/dev/virtio-ports/workload.${SCOPED_UID}`,
  intruder: `IRONCLAW_PORT=/dev/virtio-ports/workload.${INTRUDER_UID}`,
  shell: "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
};
const ROLES: Readonly<Record<number, string>> = {
  [AGENT_UID]: "agent",
  [SHIM_UID]: "shim",
  [SCOPED_UID]: "release-signer",
  [INTRUDER_UID]: "intruder",
};
const roleOf = ({ pid, uid }: ScannedProcess) => ROLES[uid] ?? (pid === 1 ? "spawner" : "shell");

describe("the PIN, after login", () => {
  let pinNeedles: string[];
  let scan: ScanResult;
  let canary: string;

  beforeAll(async () => {
    const { pin } = stage.machine;
    canary = newCanary(pin.length);
    const workload = await running.workload(SCOPED_UID);
    try {
      // Something for the audit log to record, and for the library to work with.
      const use = { scope: "release-signing", label: "release-ec", mechanism: "CKM_ECDSA" };
      await workload.request("sign", { ...use, data: randomBytes(32).toString("hex") });
      // V8 holds a text with a character beyond Latin 1 in two bytes each, little-endian; swapped characters give big-endian.
      for (const value of [canary, `${canary}\u2603`, Buffer.from(canary, "utf16le").swap16().toString("utf16le")])
        await workload.request("hold", { value });
    } finally {
      workload.close();
    }
    const needles = needlesOf(pin);
    pinNeedles = needles.map(({ name }) => name);
    const order: ScanOrder = {
      needles: [
        ...[...needles, maskedNeedle("canary", Buffer.from(canary))],
        ...Object.entries(KNOWN).map(([role, text]) => maskedNeedle(role, Buffer.from(text))),
      ],
      places: ["/run", "/tmp", "/etc", "/var", await shell.output("readlink /run/ironclaw/cabinet")],
    };
    await shell.put("/tmp/planted", inAllEncodings(canary));
    await shell.output("dmesg >/tmp/kernel-log; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline >/tmp/arguments; true");
    scan = (await shell.program(program("guest-scan.ts"), order)) as ScanResult;
  });

  const shims = () => scan.processes.filter(({ uid }) => uid === SHIM_UID);

  it("I4: the scan reads all memory of every process: spawner, agent, shims, both workloads and the shell", () => {
    expect(scan.processes.map(roleOf).sort()).toEqual([...Object.keys(KNOWN), "shim"].sort());
    for (const process of scan.processes) {
      const role = roleOf(process);
      expect([role, process.unread, total(process.counts[role] ?? nothing) > 0]).toEqual([role, [], true]);
    }
    expect(scan.kernelThreads).toBeGreaterThan(0);
  });

  it("I4: the same scan finds a canary of equal length in the workload that holds it, in every encoding, and only there", () => {
    for (const { uid, counts } of scan.processes) {
      const { utf8, utf16le, utf16be } = counts["canary"] ?? nothing;
      expect([uid, utf8 > 0, utf16le > 0, utf16be > 0]).toEqual([uid, ...Array(3).fill(uid === SCOPED_UID)]);
    }
  });

  it("I4: no process but a shim holds a copy of it, whole or half", () => {
    for (const process of scan.processes) {
      const found = counted(process, pinNeedles);
      console.info(`copies of ${pinNeedles.join(", ")} in the ${roleOf(process)}: ${found.map(total).join(", ")}`);
      if (process.uid !== SHIM_UID) expect([process.uid, ...found]).toEqual([process.uid, nothing, nothing, nothing]);
    }
    expect(shims()).toHaveLength(SHIMS);
  });

  it("I4: a dump of all memory holds no more copies than the shim does, and disks and logs none", async () => {
    const copies = await countPinCopies(running, stage.machine.pin, directory);
    const inShims = shims().reduce((sum, process) => sum + Math.max(...counted(process, pinNeedles).map(total)), 0);
    expect(copies.memory).toBeLessThanOrEqual(inShims);
    expect(copies.filesAndLogs).toBe(0);
    expect(copies.canary).toBeGreaterThan(0);
    expect((await shell.output("cat /proc/swaps")).split("\n")).toHaveLength(1); // its heading: memory is all there is
  });

  it("I4: no file in the guest holds it: not the audit log, the cabinet, the kernel's log, an argument or an environment", () => {
    const sizes = new Map(scan.files.map(({ path, bytes }) => [path, bytes]));
    for (const path of ["/run/ironclaw/state/audit/0000000000000001.log", "/tmp/kernel-log", "/tmp/arguments"])
      expect([path, (sizes.get(path) ?? 0) > 0]).toEqual([path, true]);
    for (const file of scan.files)
      expect([file.path, ...counted(file, pinNeedles)]).toEqual([file.path, nothing, nothing, nothing]);
    const withCanary = scan.files.filter(({ counts }) => total(counts["canary"] ?? nothing) > 0);
    expect(withCanary.map(({ path, counts }) => [path, counts["canary"]])).toEqual([
      ["/tmp/planted", { utf8: 1, utf16le: 1, utf16be: 1 }],
    ]);
  });
});

describe("a shim that is killed", () => {
  it("I11: is replaced by the spare, which signs the next request; I9: the next report says so, measured", async () => {
    const [active = ""] = await processesOf(SHIM_UID);
    await shell.output(`kill -9 ${active}`);
    const workload = await running.workload(SCOPED_UID);
    const use = { scope: "release-signing", label: "release-ec", mechanism: "CKM_ECDSA" };
    const sign = async () =>
      workload.request("sign", { ...use, data: randomBytes(32).toString("hex") }).catch(() => null);
    // the end of a process is noticed in its own time
    await expect.poll(sign, { timeout: 30_000 }).toMatchObject({ signature: expect.stringMatching(/^[0-9a-f]{128}$/) });
    workload.close();
    const { claims, result } = await attest(running.control, enrolment, stage.machine);
    expect(claims.asserted.shims.map(({ id, role }) => [id, role])).toEqual([
      [0, "ended"],
      [1, "active"],
    ]);
    expect(claims.asserted.incidents).toMatchObject([{ what: "replacement", token: "signing", from: 0, to: 1 }]);
    expect(result.tier).toBe("warning");
    expect(result.findings.map(({ code }) => code)).toEqual(["shim-replaced"]);
    expect(await processesOf(SHIM_UID)).toHaveLength(SHIMS - 1);
  });
});

interface Bytes {
  readonly sha256: Uint8Array;
  readonly sha384: Uint8Array;
}

/** TPM 2.0 Library, part 3: the command with one handle, an empty password, and these parameters. */
function commandOn(code: number, handle: number, parameters: Uint8Array = new Uint8Array()): string {
  const command = Buffer.alloc(27);
  command.writeUInt16BE(0x8002); // TPM_ST_SESSIONS
  command.writeUInt32BE(27 + parameters.length, 2);
  command.writeUInt32BE(code, 6);
  command.writeUInt32BE(handle, 10);
  command.writeUInt32BE(9, 14);
  command.writeUInt32BE(0x40000009, 18); // TPM_RS_PW
  return command.toString("hex") + toHex(parameters);
}

function extendCommand(pcr: number, { sha256, sha384 }: Bytes): string {
  const head = (algorithm: number) => Uint8Array.of(0, algorithm);
  const digests = [Uint8Array.of(0, 0, 0, 2), head(0x0b), sha256, head(0x0c), sha384];
  return commandOn(0x182, pcr, Buffer.concat(digests)); // TPM2_PCR_Extend
}

async function sendToTpm(commands: readonly string[]): Promise<number[]> {
  const answers = (await shell.program(program("guest-tpm.ts"), commands)) as string[];
  return answers.map((answer) => Number.parseInt(answer.slice(12, 20), 16));
}

/** What was measured before the agent asked for the PIN. */
const launchRecords = () => agentLog.filter(({ event }) => (preUnsealKinds as readonly string[]).includes(event.kind));

describe("guest root, once the launch has ended", () => {
  /** The unsealer as the agent runs it; what it would write to its sink is counted. */
  async function unsealAsRoot(): Promise<{ answer: unknown; code: string; released: string }> {
    await shell.put("/tmp/request", request);
    const unsealer = "/usr/lib/ironclaw/unsealer device:/dev/tpmrm0";
    const released = await shell.output(
      `{ ${unsealer} </tmp/request 3>&1 1>/tmp/answer 2>/dev/null; echo $? >/tmp/code; } | wc -c`,
    );
    return {
      answer: JSON.parse(await shell.output("cat /tmp/answer")),
      code: await shell.output("cat /tmp/code"),
      released: released.trim(),
    };
  }

  async function expectRefusal(): Promise<void> {
    const { answer, code, released } = await unsealAsRoot();
    expect(answer).toMatchObject({
      kind: "refused",
      answers: expect.arrayContaining([expect.objectContaining({ command: "TPM2_Unseal", rc: TPM_RC_POLICY_FAIL })]),
    });
    expect([code, released]).toEqual(["1", "0"]);
  }

  it("I3: asks with the genuine request, and the TPM refuses", async () => {
    await expectRefusal();
  });

  it("I3: extends the agent PCR again with the published event digests, and the TPM still refuses", async () => {
    expect(launchRecords().length).toBeGreaterThan(8);
    const codes = await sendToTpm(launchRecords().map(({ digests }) => extendCommand(13, digests)));
    expect(new Set(codes)).toEqual(new Set([0])); // each extend was carried out
    await expectRefusal();
  });

  it("I3: cannot reset the agent PCR", async () => {
    expect(await sendToTpm([commandOn(0x13d, 13)])).toEqual([TPM_RC_LOCALITY]); // TPM2_PCR_Reset
  });

  it("I9: who changes the agent PCR behind the agent's back gets no report that verifies", async () => {
    await expect(attest(running.control, enrolment, stage.machine)).rejects.toMatchObject({
      code: "ERR_EVIDENCE_REFUSED",
    });
  });

  it("I3: kills the agent, and the spawner caps the agent PCR and ends the machine", async () => {
    const [agent] = await processesOf(AGENT_UID);
    shell.send(`kill -9 ${agent}`);
    expect((await running.vm.exited).code).toBe(0);
    const log = await readFile(running.vm.consoleLog, "latin1");
    expect(log).toMatch(/the agent (ended \(wait status 0x9\)|closed its socket); agent PCR capped, rebooting/);
    await running.stop();
  });
});

describe("the same TPM, after the machine", () => {
  /** Power cycle the TPM, extend what the report's logs say up to the unsealing, then `further`, and ask with the same request. */
  async function replayAndUnseal(further: readonly CelRecord[]) {
    const socket = join(directory, "replay.sock");
    await using _running = await startSwtpm({ directory: stage.tpm.directory, socket, user: "tcti" });
    const tcti = `swtpm:path=${socket}`;
    const tpm = await openTpm({ tcti });
    try {
      for (const { pcr, digests } of firmwareExtends()) await tpm.pcrExtend(pcr, digests);
      for (const { digests } of [...launchRecords(), ...further]) await tpm.pcrExtend(13, digests);
    } finally {
      await tpm[Symbol.asyncDispose]();
    }
    const { answer, received } = await tryUnseal({ tcti, request });
    return { answer, pin: received[0] };
  }

  function firmwareExtends(): { pcr: number; digests: Bytes }[] {
    const { events } = parseFirmwareLog(parseEvidence(verdict.report).firmwareLog);
    const NO_ACTION = 3; // EV_NO_ACTION is told, not extended
    return events
      .filter(({ type }) => type !== NO_ACTION)
      .map(({ pcr, digests }) => {
        const [sha256, sha384] = [digests.get(0x0b), digests.get(0x0c)];
        if (sha256 === undefined || sha384 === undefined) throw new Error(`PCR ${pcr}: no digest`);
        return { pcr, digests: { sha256, sha384 } };
      });
  }

  it("I2: gives the PIN for that very request when it has measured what the logs say, so the request was genuine", async () => {
    const bank: PcrBank = "sha256";
    expect(toHex(replayCel(launchRecords(), bank))).toBe(release.pcrs[bank]["13"]);
    const { answer, pin } = await replayAndUnseal([]);
    expect(answer.kind).toBe("released");
    const expected = Buffer.concat([Uint8Array.of(0, stage.machine.pin.length), stage.machine.pin]);
    expect(Buffer.compare(pin ?? new Uint8Array(), expected)).toBe(0);
  });

  it("I3: refuses that very request for the cap alone", async () => {
    const caps = agentLog.filter(({ event }) => event.kind === "cap");
    expect(caps.map(({ event }) => event.name)).toEqual(["serving"]);
    const { answer, pin } = await replayAndUnseal(caps);
    expect(answer.kind).toBe("refused");
    expect(pin).toHaveLength(0);
  });
});
