import { execFileSync } from "node:child_process";
import { verify } from "node:crypto";
import { chmodSync, mkdirSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { sha256Hex, toBase64 } from "../../../policy/index.ts";
import { GOOD } from "../attacks.ts";
import { type Lab, type Program, programAt, type Served } from "../bench.ts";
import { digestOf, P11KIT_CLIENT, runAs, signWithTool, tried } from "../clients.ts";
import { labDocument } from "../deliberately-weak-policy.ts";
import { type Backup, OWNER_COMMANDS, wrapForToken } from "../owner.ts";
import { searchFiles } from "../search.ts";
import type { Step, StepResult, Try } from "../step.ts";

/** Writes down every call of a client with all that goes in and comes out. */
const SPY = "/usr/lib/x86_64-linux-gnu/pkcs11/pkcs11-spy.so";
const root = resolve(import.meta.dirname, "../../..");
const LABEL = "came back";
const CODES: Readonly<Record<string, string>> = {
  "0x110": "CKR_WRAPPED_KEY_INVALID",
  "0xd1": "CKR_TEMPLATE_INCONSISTENT",
};

export const RESTORE: readonly Step[] = [
  {
    ...{ number: 14, part: "restore", title: "Backup and restore" },
    attacked:
      "a key on its way back: by another blob, by a template that would let it out again, by a search for its bytes",
    change: "scopes: restore lets one blob in as one key, restored signs with it",
    enforcedBy:
      "the broker (the blob's digest, the template), the shim (the template that it makes itself), the token (sensitive)",
    run: restore,
  },
];

async function restore(lab: Lab): Promise<StepResult> {
  const before = lab.lastRecord();
  const [backup, foreign] = [wrapForToken(lab), wrapForToken(lab)];
  const restorer = buildRestorer(lab);
  await using served = await lab.serve(restorePolicy(lab, restorer, backup));
  const bring = (bytes: Uint8Array, expected: Try["expected"], ...more: readonly string[]) =>
    unwrap(lab, served, { restorer, bytes, expected, more });
  const tries = [
    await useIt(lab, served, backup, "refused"),
    await bring(foreign.wrapped, "refused"),
    await bring(backup.wrapped, "refused", "extractable"),
    await bring(backup.wrapped, "accepted"),
    await useIt(lab, served, backup, "accepted"),
  ];
  const object = (await lab.held()).find(({ label }) => label === LABEL);
  const flags = (["sign", "decrypt", "unwrap", "sensitive", "extractable"] as const).map(
    (flag) => `${flag} ${object?.flags.get(flag)}`,
  );
  tries.push(lookFor(lab, "the private scalar", backup.scalar, "refused"));
  tries.push(lookFor(lab, "the wrapped blob, to see that the search finds", backup.wrapped, "accepted"));
  return {
    tries,
    shown: [...OWNER_COMMANDS, `on the token: ${LABEL}: ${flags.join(", ")}`],
    audit: lab.records(before),
  };
}

function restorePolicy(lab: Lab, restorer: Program, { wrapped, publicKey }: Backup) {
  const document = labDocument(lab, ["kek"]);
  const { uids, signer } = lab;
  document.callers = {
    restorer: { uid: uids.service, exe: [restorer.exe], unit: null },
    "release-signer": { uid: uids.service, exe: [signer.exe], unit: null },
  };
  const arrival = {
    ...{ key: "restored", publicKey: toBase64(Uint8Array.from(publicKey.export({ format: "der", type: "spki" }))) },
    ...{ does: "sign", where: "session", label: LABEL, mechanisms: ["CKM_ECDSA"] },
    blob: `sha256:${sha256Hex(wrapped)}`,
  };
  document.scopes = [
    {
      ...{ name: "restore", caller: "restorer", key: "kek", audit: "durable", unwraps: [arrival] },
      mechanisms: [{ type: "CKM_RSA_PKCS_OAEP", digest: "sha1" }],
    },
    {
      ...{ name: "restored", caller: "release-signer", from: "restore", key: "restored", audit: "durable" },
      mechanisms: [{ type: "CKM_ECDSA", digest: "sha256" }],
    },
  ];
  return document;
}

function buildRestorer({ directory }: Lab): Program {
  const path = join(directory, "bin", "restorer");
  const flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE", `-I${root}/agent/shim`];
  execFileSync("gcc", [...flags, "-o", path, join(root, "test/lab/restorer.c"), "-ldl"]);
  return programAt(path);
}

interface Bringing {
  readonly restorer: Program;
  readonly bytes: Uint8Array;
  readonly expected: Try["expected"];
  readonly more: readonly string[];
}

async function unwrap(lab: Lab, served: Served, { restorer, bytes, expected, more }: Bringing): Promise<Try> {
  const blob = join(lab.directory, `blob-${sha256Hex(bytes).slice(0, 8)}`);
  writeFileSync(blob, bytes, { mode: 0o644 });
  const spied = join(lab.directory, "spied");
  mkdirSync(spied, { recursive: true });
  chmodSync(spied, 0o777);
  const env = {
    ...{ P11_KIT_SERVER_ADDRESS: `unix:path=${served.socket("restore")}` },
    ...{ PKCS11SPY: P11KIT_CLIENT, PKCS11SPY_OUTPUT: join(spied, "calls.log") },
  };
  const { service } = lab.uids;
  const { code, out } = await runAs(service, restorer.path, [SPY, blob, ...more], env);
  return {
    ...{ who: `restorer, uid ${service}`, expected, outcome: code === 0 ? "accepted" : "refused" },
    command: ["restorer pkcs11-spy.so(p11-kit-client.so)", blob.slice(lab.directory.length + 1), ...more].join(" "),
    answer: named(new TextDecoder().decode(out).trim()),
  };
}

/** The restorer prints numbers. */
function named(answer: string): string {
  const name = CODES[answer.split(" ")[1] ?? ""];
  return name === undefined ? answer : `${answer} (${name})`;
}

/** The id of a key that arrives is the digest of its public key. */
async function useIt(lab: Lab, served: Served, { publicKey }: Backup, expected: Try["expected"]): Promise<Try> {
  const id = sha256Hex(Uint8Array.from(publicKey.export({ format: "der", type: "spki" })));
  const asking = { program: lab.signer, uid: lab.uids.service, scope: "restored", mechanism: "ECDSA" };
  const signed = await signWithTool(lab, served, { ...asking, id, data: digestOf(GOOD) });
  const key = { key: publicKey.export({ format: "pem", type: "spki" }), dsaEncoding: "ieee-p1363" } as const;
  return tried(expected, signed, (signature) => verify("sha256", Buffer.from(GOOD), key, signature));
}

function lookFor(lab: Lab, what: string, bytes: Uint8Array, expected: Try["expected"]): Try {
  const { files, searched, bytes: size } = searchFiles(lab.directory, bytes);
  const places = files.map((path) => path.slice(lab.directory.length + 1)).join(", ");
  return {
    ...{ who: "the search", command: `${what}: in every file of the lab`, expected },
    outcome: files.length > 0 ? "accepted" : "refused",
    answer: `${searched} files, ${size} bytes: ${files.length === 0 ? "not found" : `found in ${places}`}`,
  };
}
