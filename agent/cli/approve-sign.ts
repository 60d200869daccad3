import { spawn } from "node:child_process";
import { MAX_SSH_SIGNATURE, parseSshSignature, respellSshSignature, verifySshSignature } from "../../policy/index.ts";
import { APPROVAL_NAMESPACE } from "../approvals/index.ts";
import { AgentError } from "../errors.ts";
import {
  COMPARE_OPTIONS,
  MACHINE_OPTION,
  misfits,
  readRequest,
  type ShownRequest,
  withMachine,
} from "./approve-requests.ts";
import { showRequest } from "./approve-words.ts";
import { type Command, type CommandInput, type CommandIo, type SecretInput, UsageError } from "./command.ts";
import { readText } from "./files.ts";
import { answer, JSON_OPTION } from "./output.ts";

export const command: Command = {
  summary: "approve a request: shows what is signed, asks, has ssh-keygen sign it, and hands the signature in",
  positionals: ["ID"],
  options: {
    machine: MACHINE_OPTION,
    key: {
      type: "string",
      value: "FILE",
      help: "your SSH key, as `ssh-keygen -Y sign -f` takes it: private, or public with an agent",
    },
    signature: { type: "string", value: "FILE", help: "a signature that was made elsewhere, instead of --key" },
    yes: { type: "boolean", help: "do not ask" },
    ...COMPARE_OPTIONS,
    json: JSON_OPTION,
  },
  examples: [
    "ironclaw approve sign 9f0c1d2e3a4b5c6d --machine /tmp/ironclaw-dev-x1/vm --key ~/.ssh/id_ed25519_sk --input release.tar",
    "ironclaw approve sign 9f0c1d2e3a4b5c6d --machine /tmp/ironclaw-dev-x1/vm --signature request.txt.sig",
  ],
  talks: true,
  run: async (input, io) => {
    const [key, file] = [input.optional("key"), input.optional("signature")];
    if ((key === undefined) === (file === undefined))
      throw new UsageError("--key FILE", { expected: "it or --signature", got: key === undefined ? "none" : "both" });
    return withMachine(input, async (machine) => {
      const shown = await readRequest(machine, input.positional(0));
      const signature =
        key === undefined
          ? respellSshSignature(await readText(file ?? "", "signature"))
          : await sign(input, io, shown, key);
      await checkSignature(shown, signature);
      return concluded(input, io, await machine.approving("approve", { request: shown.request, signature }));
    });
  },
};

/** Nothing is signed that was not shown, that does not fit, or that the person did not say yes to. */
async function sign(input: CommandInput, io: CommandIo, shown: ShownRequest, key: string): Promise<string> {
  const found = await misfits(input, shown);
  for (const line of showRequest(shown, found, Date.now())) io.complain(line);
  if (found.length > 0)
    throw new AgentError("ERR_APPROVAL", `request ${shown.request}`, {
      expected: "what it is compared with",
      got: found.join("; "),
    });
  if (!input.flag("yes")) {
    io.complain("sign this? Type yes:");
    const said = await firstLine(io.input);
    if (said !== "yes")
      throw new AgentError("ERR_APPROVAL", "answer", { expected: "yes", got: "something else, nothing is signed" });
  }
  return runKeygen(key, shown.bytes);
}

/** The key's passphrase, PIN and touch are between ssh-keygen, the terminal and the key. */
function runKeygen(key: string, bytes: Uint8Array): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn("ssh-keygen", ["-Y", "sign", "-n", APPROVAL_NAMESPACE, "-f", key], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    const refuse = (got: string, cause?: unknown) =>
      reject(new AgentError("ERR_ENVIRONMENT", "ssh-keygen -Y sign", { expected: "a signature", got, cause }));
    let made = "";
    child.stdout.on("data", (chunk) => {
      if (made.length <= MAX_SSH_SIGNATURE) made += chunk;
    });
    child.once("error", (cause) => refuse("no such program: install OpenSSH's client", cause));
    child.once("close", (code) => (code === 0 ? resolve(made) : refuse(`exit code ${code}`)));
    child.stdin.on("error", () => {}).end(bytes); // it may end before it has read all: its exit code says so
  });
}

/** Here, so that a wrong file is told from a machine that says no. @throws PolicyError for what is no signature by a kind of key that counts */
async function checkSignature({ bytes, request }: ShownRequest, armored: string): Promise<void> {
  const signed = { namespace: APPROVAL_NAMESPACE, message: bytes, verifyRequired: false };
  const fault = await verifySshSignature(parseSshSignature(armored), signed);
  if (fault === null) return;
  throw new AgentError("ERR_APPROVAL", `signature for request ${request}`, {
    ...{ expected: `one over its text in the namespace ${APPROVAL_NAMESPACE}`, got: `another (${fault})` },
    hint: "`ironclaw approve show ID --out FILE` writes what has to be signed",
  });
}

function concluded(input: CommandInput, io: CommandIo, got: Readonly<Record<string, unknown>>): 0 | 1 {
  const { accepted, approver, approvers, required, code, reason } = got;
  if (accepted !== true) {
    answer(input, io, got, `refused: ${String(code)}: ${String(reason)}`);
    return 1;
  }
  const all = Array.isArray(approvers) ? approvers.length : 0;
  const rest = all < Number(required) ? "" : "; the caller's next try is served";
  answer(input, io, got, `approved by ${String(approver)}, ${all} of ${String(required)}${rest}`);
  return 0;
}

async function firstLine(stream: SecretInput): Promise<string> {
  let text = "";
  for await (const chunk of stream) {
    text += new TextDecoder().decode(chunk);
    if (text.includes("\n") || text.length > 64) break;
  }
  return text.split("\n")[0]?.trim() ?? "";
}
