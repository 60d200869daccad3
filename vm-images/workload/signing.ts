import { connect, type Mechanism } from "../../agent/client/index.ts";
import { type Operations, run, scopeSocket, servePort, text } from "./serve.ts";
import { type SignRequest, signThroughScope } from "./sign.ts";

/** Who it is, and a signature through either door of a scope. */
export const SIGNING: Operations = {
  identity: async () => ({
    uid: process.getuid?.(),
    pid: process.pid,
    node: process.version,
  }),
  sign: async (fields) => {
    const request = JSON.stringify({
      label: text(fields, "label"),
      mechanism: text(fields, "mechanism"),
      data: text(fields, "data"),
    });
    // A process of its own: p11-kit-client.so reads its server address once.
    return JSON.parse(await run(process.execPath, [process.argv[1] ?? "", "--sign"], scopeSocket(fields), request));
  },
  // Through the native door of the same socket, and in this process: nothing is loaded.
  "native-sign": async (fields) => {
    await using client = await connect({ scope: text(fields, "scope") });
    await using session = client.session();
    const mechanism = text(fields, "mechanism") as Mechanism; // the agent says whether it is one
    const signature = await session.sign({ mechanism, digest: Buffer.from(text(fields, "digest"), "hex") });
    return { keys: client.keys.map(({ name }) => name), signature: Buffer.from(signature).toString("hex") };
  },
};

async function signOnce(): Promise<void> {
  const chunks: Buffer[] = [];
  for await (const chunk of process.stdin) chunks.push(chunk);
  const request = JSON.parse(Buffer.concat(chunks).toString());
  const signature = signThroughScope({
    ...request,
    data: Buffer.from(request.data, "hex"),
  } satisfies SignRequest);
  process.stdout.write(JSON.stringify({ signature: Buffer.from(signature).toString("hex") }));
}

/** The whole program: its only argument is the port to serve, or `--sign` for one signature of the request on standard input. */
export async function runWorkload(operations: Operations): Promise<void> {
  const argument = process.argv[2];
  try {
    if (argument === undefined) throw new Error("usage: workload PORT");
    if (argument === "--sign") await signOnce();
    else await servePort(argument, operations);
  } catch (error) {
    process.stderr.write(`workload: ${error instanceof Error ? error.message : "unknown failure"}\n`);
    process.exitCode = 1;
  }
}
