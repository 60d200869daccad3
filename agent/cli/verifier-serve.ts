import { openVerifierService, type Service } from "../../attest/service/index.ts";
import { IronclawError } from "../../policy/index.ts";
import { loadSigningKey } from "../../seal/index.ts";
import type { Command, CommandIo } from "./command.ts";
import { answer, JSON_OPTION } from "./output.ts";
import { CONFIG_OPTION, readVerifierConfig, TLS_OPTIONS } from "./verifier-options.ts";

export const command: Command = {
  summary: "run the verifier service; SIGHUP reads policy, releases and anchors again, SIGTERM ends it",
  positionals: [],
  options: { config: CONFIG_OPTION, ...TLS_OPTIONS, json: JSON_OPTION },
  examples: [
    "ironclaw verifier serve --config verifier/verifier.json",
    "ironclaw verifier serve --config verifier/verifier.json --tls-cert tls.pem --tls-key tls.key --tls-client-ca people.pem",
  ],
  run: async (input, io) => {
    const { config, folder } = await readVerifierConfig(input);
    const log = { write: (line: string) => io.complain(line) };
    const service = await openVerifierService(config, { folder, loadKey: loadSigningKey, log });
    const ended = untilTold(service, io);
    try {
      const address = await service.listen();
      answer(input, io, { address }, `verifier service at ${address}`);
      await ended;
    } finally {
      await service.close();
    }
    return 0;
  },
};

/** A second signal to end is not waited for: the process ends as if nobody listened. */
function untilTold(service: Service, io: CommandIo): Promise<void> {
  process.on("SIGHUP", () => {
    service.reload().then(
      ({ policy, releases }) =>
        io.complain(logLine("reloaded", `policy ${policy.document.name}, ${releases.length} releases`)),
      (error: unknown) => io.complain(logLine("kept what was in force", reasonOf(error))),
    );
  });
  return new Promise((resolve) => {
    for (const signal of ["SIGTERM", "SIGINT"] as const) process.once(signal, () => resolve());
  });
}

function reasonOf(error: unknown): string {
  return error instanceof IronclawError ? `${error.message} (${error.code})` : "an unforeseen failure";
}

const logLine = (msg: string, what: string) => JSON.stringify({ level: 30, time: Date.now(), what, msg });
