import { createPublicKey, type KeyObject } from "node:crypto";
import { join } from "node:path";
import type { ModulePolicy } from "../../attest/index.ts";
import { lintPolicy, type PolicyDocument, parseJson, parsePolicy, sha256Hex, utf8 } from "../../policy/index.ts";
import { GuestTree, requireGuestFile } from "../../vm-images/guest-tree.ts";
import { PROGRAMS } from "../../vm-images/pin-module.ts";
import { vmPciDevices } from "../../vm-images/qemu-args.ts";
import { AgentError } from "../errors.ts";
import { type Command, type CommandInput, UsageError } from "./command.ts";
import { readInput } from "./files.ts";
import { deliver, JSON_OPTION } from "./output.ts";

export const command: Command = {
  summary:
    "write a first policy for a measured library: one token, one caller, a scope for each key; check and edit it then",
  positionals: [],
  options: {
    image: {
      type: "string",
      value: "DIR",
      help: "what `image build --out` filled: profiles, programs",
      required: true,
    },
    module: { type: "string", value: "FILE", help: "what `measure --json` printed", required: true },
    label: { type: "string", value: "TEXT", help: "the token's label", required: true },
    serial: { type: "string", value: "TEXT", help: "the token's serial number", required: true },
    key: {
      type: "string",
      value: "NAME=FILE",
      multiple: true,
      required: true,
      help: "a key that signs, by its public half (PEM or DER): P-256 or RSA",
    },
    uid: { type: "string", value: "N", help: "the caller's uid in the guest", required: true },
    exe: { type: "string", value: "PATH", multiple: true, required: true, help: "the caller's program, in the image" },
    profile: { type: "string", value: "NAME", help: "what the library may reach: local (default), usb, relay" },
    node: { type: "string", value: "NODE", multiple: true, help: "with usb: /dev/NAME or usb:vvvv:pppp" },
    connect: {
      type: "string",
      value: "JSON",
      multiple: true,
      help: "with relay: an endpoint, as policy/POLICY.md has it",
    },
    writable: { type: "string", value: "PATH", multiple: true, help: "a directory that the library writes" },
    device: { type: "string", value: "ID", multiple: true, help: "what the machine shows besides its own devices" },
    spares: { type: "string", value: "N", help: "shims that wait, logged in, for one to die (default 1)" },
    accept: { type: "string", value: "WORD", multiple: true, help: "a weakness of the keys: unknown-history" },
    owner: { type: "string", value: "TEXT", help: "who answers for it", required: true },
    "review-by": {
      type: "string",
      value: "DATE",
      help: "when somebody looks at it again, e.g. 2027-11-01",
      required: true,
    },
    out: { type: "string", value: "FILE", help: "the policy", required: true },
    json: JSON_OPTION,
  },
  examples: [
    "ironclaw policy new --image build/image/demo --module module.json --label signing --serial 1f00aa --key release-ec=release-ec.pem --uid 2001 --exe /usr/bin/node --writable /var/lib/softhsm/tokens --owner payments --review-by 2027-11-01 --out policy.json",
  ],
  run: async (input, io) => {
    const document = await draft(input);
    const bytes = utf8(`${JSON.stringify(document, null, 2)}\n`);
    const policy = parsePolicy(bytes); // says what is wrong in the words of the policy's own fields
    for (const { message } of lintPolicy(policy, Date.now())) io.complain(`warning: ${message}`);
    await deliver(input, io, bytes, { scopes: Object.keys(document.keys) }, "policy");
    return 0;
  },
};

/** The module's, the token's and the caller's name in the document. */
const MODULE = "module";
const TOKEN = "token";
const CALLER = "signer";

async function draft(input: CommandInput): Promise<PolicyDocument> {
  const tree = new GuestTree(join(input.text("image"), "tree"), []);
  const digest = (path: string) => sha256Hex(requireGuestFile(tree, path));
  const keys = await readKeys(input);
  const profile = input.choice("profile", ["local", "usb", "relay"]);
  return {
    version: 3,
    serial: 1,
    owner: input.text("owner"),
    reviewBy: input.text("review-by"),
    modules: {
      [MODULE]: {
        ...(await readModule(input)),
        profile: { name: profile, sha256: digest(`${PROGRAMS}/${profile}.profile`) },
        nodes: [...input.list("node")],
        writable: [...input.list("writable")],
        connect: input.list("connect").map(readEndpoint),
        files: {},
        spares: input.integer("spares", 0, 3) ?? 1,
      },
    },
    tokens: { [TOKEN]: { module: MODULE, label: input.text("label"), serial: input.text("serial"), pin: "hsm-pin" } },
    devices: [...vmPciDevices, ...input.list("device")].sort(),
    sandbox: { lacks: [] },
    onViolation: "kill",
    onLoginLost: "reboot",
    keys: Object.fromEntries(keys.map(({ name, spki }) => [name, { spki, does: "sign", accepts: acceptsOf(input) }])),
    callers: {
      [CALLER]: {
        uid: input.integer("uid", 1, 0xffff_fffe) ?? 0,
        exe: input.list("exe").map((path): `sha256:${string}` => `sha256:${digest(path)}`),
        unit: null,
      },
    },
    scopes: keys.map(({ name, mechanism }) => ({
      ...{ name, caller: CALLER, key: name, mechanisms: [mechanism] },
      ...{ rate: { perMinute: 600, burst: 60 }, audit: "written" },
    })),
  };
}

/** Its digests are its own business: the launch compares them, and `parsePolicy` says what is no fragment. */
async function readModule(input: CommandInput): Promise<ModulePolicy> {
  const bytes = await readInput(input.text("module"), "module");
  return parseJson(bytes, "module", { maxBytes: 1 << 20, maxDepth: 4 }) as unknown as ModulePolicy;
}

/** `parsePolicy` says what is no endpoint. */
function readEndpoint(text: string): PolicyDocument["modules"][string]["connect"][number] {
  return parseJson(utf8(text), "--connect", { maxBytes: 65_536, maxDepth: 4 }) as never;
}

function acceptsOf(input: CommandInput): "unknown-history"[] {
  return input.list("accept").map((word) => {
    if (word === "unknown-history") return word;
    throw new UsageError("--accept", { expected: "unknown-history", got: word });
  });
}

interface NamedKey {
  readonly name: string;
  readonly spki: `sha256:${string}`;
  readonly mechanism:
    | { readonly type: "CKM_ECDSA"; readonly digest: "sha256" }
    | { readonly type: "CKM_SHA256_RSA_PKCS" };
}

async function readKeys(input: CommandInput): Promise<readonly NamedKey[]> {
  return Promise.all(
    input.list("key").map(async (entry): Promise<NamedKey> => {
      const [, name = "", path = ""] = /^([a-z0-9-]+)=(.+)$/.exec(entry) ?? [];
      if (name === "") throw new UsageError("--key", { expected: "NAME=FILE", got: "something else" });
      const key = publicKeyOf(await readInput(path, "public key"), path);
      const spki = new Uint8Array(key.export({ format: "der", type: "spki" }));
      return { name, spki: `sha256:${sha256Hex(spki)}`, mechanism: mechanismFor(key, path) };
    }),
  );
}

function publicKeyOf(bytes: Uint8Array, path: string): KeyObject {
  const der = bytes[0] === 0x30;
  try {
    if (der) return createPublicKey({ key: Buffer.from(bytes), format: "der", type: "spki" });
    const text = Buffer.from(bytes).toString();
    if (!text.includes("PRIVATE")) return createPublicKey(text);
  } catch {
    // said below
  }
  throw new AgentError("ERR_CONFIG_INVALID", `public key ${path}`, {
    expected: "a public key in PEM or DER",
    got: "something else",
  });
}

/** What a caller usually asks for; the digest is fixed, so that nothing else can be signed through the scope. */
function mechanismFor(key: KeyObject, path: string): NamedKey["mechanism"] {
  const curve = key.asymmetricKeyDetails?.namedCurve;
  if (key.asymmetricKeyType === "ec" && curve === "prime256v1") return { type: "CKM_ECDSA", digest: "sha256" };
  if (key.asymmetricKeyType === "rsa") return { type: "CKM_SHA256_RSA_PKCS" };
  const got = `${key.asymmetricKeyType ?? "none"} ${curve ?? ""}`.trim();
  throw new AgentError("ERR_CONFIG_INVALID", `public key ${path}`, { expected: "P-256 or RSA", got });
}
