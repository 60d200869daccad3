import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { defaultQuotePcrs } from "../../attest/index.ts";
import { fromHex } from "../../policy/index.ts";
import { type ControlClient, openControl } from "../../vm-images/control-client.ts";
import { AgentError } from "../errors.ts";
import { type Command, type CommandInput, UsageError } from "./command.ts";
import { writeOutput } from "./files.ts";

const NONCE_BYTES = 32;

export const command: Command = {
  summary: "ask a running machine for a report, over its control port",
  positionals: [],
  options: {
    machine: {
      type: "string",
      value: "DIR",
      help: "the running machine's directory, which holds its port sockets",
      required: true,
    },
    nonce: { type: "string", value: "HEX", help: "32 fresh random bytes of the verifier", required: true },
    bank: { type: "string", value: "NAME", help: "sha256 (default) or sha384" },
    out: { type: "string", value: "FILE", help: "the report", required: true },
  },
  examples: ["ironclaw report --machine build/run/dev/vm --nonce $(openssl rand -hex 32) --out report.cbor"],
  run: async (input, io) => {
    const bank = input.optional("bank") ?? "sha256";
    if (bank !== "sha256" && bank !== "sha384")
      throw new UsageError("--bank", { expected: "sha256 or sha384", got: bank });
    const nonce = parseNonce(input);
    const control = await openMachine(input.text("machine"));
    try {
      const report = await control.challenge({ nonce, bank, pcrs: defaultQuotePcrs });
      await writeOutput(input.text("out"), report);
      io.print(`report of ${report.length} bytes: ${input.text("out")}`);
      return 0;
    } finally {
      control.close();
    }
  },
};

/** @throws UsageError when it is not 32 bytes */
export function parseNonce(input: CommandInput): Uint8Array {
  const nonce = fromHex(input.text("nonce"), "--nonce");
  if (nonce.length !== NONCE_BYTES)
    throw new UsageError("--nonce", { expected: `${NONCE_BYTES} bytes`, got: `${nonce.length}` });
  return nonce;
}

/** @throws AgentError ERR_ENVIRONMENT when the machine is not running */
export async function openMachine(directory: string): Promise<ControlClient> {
  return openControl({
    control: await openPort(join(directory, "ironclaw.control.sock")),
    report: await openPort(join(directory, "ironclaw.report.sock")),
  });
}

function openPort(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(path, () => resolve(socket));
    socket.once("error", (cause) =>
      reject(
        new AgentError("ERR_ENVIRONMENT", `port ${path}`, { expected: "a running machine", got: "no listener", cause }),
      ),
    );
  });
}
