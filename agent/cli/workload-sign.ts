import { connect } from "node:net";
import { join } from "node:path";
import { LineClient } from "../../vm-images/line-client.ts";
import { AgentError } from "../errors.ts";
import type { Command } from "./command.ts";
import { writeOutput } from "./files.ts";
import { answer, JSON_OPTION } from "./output.ts";

const SIGN_TIMEOUT_MS = 120_000;

export const command: Command = {
  summary: "have the project's own workload sign a digest through a scope: shows that policy, token and caller fit",
  positionals: [],
  options: {
    machine: { type: "string", value: "DIR", help: "the running machine's directory of port sockets", required: true },
    uid: { type: "string", value: "N", help: "which workload: its port is workload.UID", required: true },
    scope: { type: "string", value: "NAME", help: "of the policy", required: true },
    mechanism: { type: "string", value: "TYPE", help: "CKM_ECDSA (default), CKM_SHA256_RSA_PKCS" },
    digest: { type: "string", value: "HEX", help: "SHA-256 of what is signed", required: true },
    out: {
      type: "string",
      value: "FILE",
      help: "the signature; of ECDSA in the form that OpenSSL reads",
      required: true,
    },
    json: JSON_OPTION,
  },
  examples: ["ironclaw workload sign --machine vm-1 --uid 2001 --scope release-ec --digest 5a5a... --out message.sig"],
  run: async (input, io) => {
    const uid = input.integer("uid", 1, 0xffff_fffe) ?? 0;
    const mechanism = input.choice("mechanism", ["CKM_ECDSA", "CKM_SHA256_RSA_PKCS"]);
    const digest = input.hex("digest", 32).toHex();
    const scope = input.text("scope");
    const client = await openWorkload(join(input.text("machine"), `workload.${uid}.sock`), uid);
    try {
      const { signature } = await client.request("native-sign", { scope, mechanism, digest }, SIGN_TIMEOUT_MS);
      const bytes = signatureBytes(signature, mechanism);
      await writeOutput(input.text("out"), bytes);
      answer(
        input,
        io,
        { scope, uid, signature: bytes.toHex() },
        `uid ${uid} signed through scope ${scope}: ${bytes.length} bytes`,
      );
      return 0;
    } finally {
      client.close();
    }
  },
};

function openWorkload(path: string, uid: number): Promise<LineClient> {
  return new Promise((resolve, reject) => {
    const socket = connect(path, () => resolve(new LineClient(socket, `workload ${uid}`)));
    socket.once("error", (cause) =>
      reject(
        new AgentError("ERR_ENVIRONMENT", `port ${path}`, { expected: "a running machine", got: "no listener", cause }),
      ),
    );
  });
}

/** The guest's word: hexadecimal, and of ECDSA the two halves. */
function signatureBytes(signature: unknown, mechanism: string): Uint8Array {
  const bytes =
    typeof signature === "string" && /^(?:[0-9a-f]{2}){64,1024}$/.test(signature)
      ? Uint8Array.fromHex(signature)
      : null;
  if (bytes === null || (mechanism === "CKM_ECDSA" && bytes.length % 2 !== 0))
    throw new AgentError("ERR_ENVIRONMENT", "workload", { expected: "a signature", got: "another answer" });
  return mechanism === "CKM_ECDSA" ? derSignature(bytes) : bytes;
}

/** Ecdsa-Sig-Value of RFC 3279: SEQUENCE of two INTEGERs; PKCS#11 has r and s behind each other. */
function derSignature(bytes: Uint8Array): Uint8Array {
  const half = bytes.length / 2;
  const integers = [bytes.subarray(0, half), bytes.subarray(half)].flatMap(derInteger);
  return Uint8Array.from([0x30, integers.length, ...integers]);
}

function derInteger(bytes: Uint8Array): readonly number[] {
  const first = bytes.findIndex((byte) => byte !== 0);
  const digits = first < 0 ? [0] : [...bytes.subarray(first)];
  const padded = (digits[0] ?? 0) >= 0x80 ? [0, ...digits] : digits;
  return [0x02, padded.length, ...padded];
}
