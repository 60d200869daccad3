import * as z from "zod";
import { parseEnrolment } from "../../attest/index.ts";
import { concatBytes, DIGESTS, sha256, sha256Hex, sha384, sha512, utf8 } from "../../policy/index.ts";
import { type ApprovalText, MAX_APPROVAL_TEXT, parseApprovalText } from "../approvals/index.ts";
import { AgentError } from "../errors.ts";
import { type CommandInput, type CommandOption, UsageError } from "./command.ts";
import { readInput } from "./files.ts";
import { openMachine } from "./machine-ports.ts";

export const MACHINE_OPTION: CommandOption = {
  ...{ type: "string", value: "DIR", required: true },
  help: "the running machine's directory of port sockets",
};
/** What somebody compares a request with before he signs it. */
export const COMPARE_OPTIONS: Readonly<Record<"enrolment" | "policy" | "input", CommandOption>> = {
  enrolment: { type: "string", value: "FILE", help: "the machine that it must be from, as `ironclaw enrol` wrote it" },
  policy: { type: "string", value: "FILE", help: "the policy that the machine must have measured" },
  input: { type: "string", value: "FILE", help: "the document, ciphertext or wrapped key that it must be about" },
};

const names = z.array(z.string().max(64)).max(64);
const answerSchema = z.strictObject({
  requests: z
    .array(
      z.strictObject({
        request: z.string().regex(/^[0-9a-f]{16}$/),
        text: z.string().max(MAX_APPROVAL_TEXT),
        required: z.int().min(1).max(64),
        ...{ of: names, approvers: names, secondsLeft: z.int().min(0) },
      }),
    )
    .max(4096),
});

/** A request as a machine shows it: nothing of it is believed but what is signed, and that only as text. */
export interface ShownRequest {
  readonly request: string;
  /** The bytes that are signed. */
  readonly bytes: Uint8Array;
  readonly text: ApprovalText;
  readonly required: number;
  readonly of: readonly string[];
  readonly approvers: readonly string[];
  readonly secondsLeft: number;
}

type Machine = Awaited<ReturnType<typeof openMachine>>;

export async function withMachine<T>(input: CommandInput, act: (machine: Machine) => Promise<T>): Promise<T> {
  const machine = await openMachine(input.text("machine"));
  try {
    return await act(machine);
  } finally {
    machine.close();
  }
}

/** @throws AgentError ERR_CONTROL_MALFORMED for an answer of another form, PolicyError for a text that is none of an approval */
export async function readRequests(machine: Machine): Promise<readonly ShownRequest[]> {
  const parsed = answerSchema.safeParse(await machine.approving("pending"));
  if (!parsed.success) throw otherAnswer("a list of requests");
  return parsed.data.requests.map(({ text, ...shown }) => {
    const bytes = utf8(text);
    const read = parseApprovalText(bytes);
    if (read.request !== shown.request) throw otherAnswer(`the text of request ${shown.request}`);
    return { ...shown, bytes, text: read };
  });
}

/** @throws AgentError ERR_APPROVAL when none of that id waits */
export async function readRequest(machine: Machine, id: string): Promise<ShownRequest> {
  if (!/^[0-9a-f]{16}$/.test(id))
    throw new UsageError("ID", { expected: "16 hexadecimal digits", got: "another text" });
  const found = (await readRequests(machine)).find(({ request }) => request === id);
  if (found !== undefined) return found;
  throw new AgentError("ERR_APPROVAL", `request ${id}`, {
    ...{ expected: "one that waits", got: "none" },
    hint: "it was used, has expired, or the machine has started again or changed its policy; `ironclaw approve list` shows what waits",
  });
}

/** What speaks against signing it, from what the person gave to compare it with. */
export async function misfits(input: CommandInput, { text }: ShownRequest): Promise<readonly string[]> {
  const [enrolment, policy, document] = [
    input.optional("enrolment"),
    input.optional("policy"),
    input.optional("input"),
  ];
  const found: string[] = [];
  if (enrolment !== undefined) {
    const { name, akName } = parseEnrolment(await readInput(enrolment, "enrolment"));
    if (text.machine !== akName) found.push(`machine: it is not from ${name}`);
  }
  if (policy !== undefined && text.policy !== `sha256:${sha256Hex(await readInput(policy, "policy"))}`)
    found.push(`policy: the machine has measured another one than ${policy}`);
  if (document !== undefined) found.push(...inputMisfits(text, await readInput(document, "input"), document));
  return found;
}

/** The bytes for the token are the document itself or, for a signature, a digest of it, perhaps in a DigestInfo. */
function inputMisfits(text: ApprovalText, document: Uint8Array, name: string): readonly string[] {
  if (text.for === "window") return ["input: a window is about no input"];
  const hashed = [
    { digest: sha256(document), prefix: DIGESTS.sha256.digestInfoPrefix },
    { digest: sha384(document), prefix: DIGESTS.sha384.digestInfoPrefix },
    { digest: sha512(document), prefix: DIGESTS.sha512.digestInfoPrefix },
  ].flatMap(({ digest, prefix }) => [digest, concatBytes(Uint8Array.from(prefix), digest)]);
  const forms = text.operation === "sign" && text.mechanism !== "CKM_RSA_X_509" ? hashed : [document];
  return forms.some((form) => text.input === `sha256:${sha256Hex(form)}`) ? [] : [`input: it is not about ${name}`];
}

function otherAnswer(expected: string): AgentError {
  return new AgentError("ERR_CONTROL_MALFORMED", "control pending", { expected, got: "another answer" });
}
