import { openVerifierService, type Service } from "../../attest/service/index.ts";
import { IronclawError } from "../../policy/index.ts";
import { loadSigningKey } from "../../seal/index.ts";
import { Journal } from "../journal.ts";
import type { Command } from "./command.ts";
import { answer, JSON_OPTION } from "./output.ts";
import { serviceLog } from "./verifier-log.ts";
import { CONFIG_OPTION, readVerifierConfig, TLS_OPTIONS } from "./verifier-options.ts";

export const command: Command = {
  summary: "run the verifier service; SIGHUP reads policy, releases and anchors again, SIGTERM ends it",
  positionals: [],
  options: { config: CONFIG_OPTION, ...TLS_OPTIONS, json: JSON_OPTION },
  examples: [
    "ironclaw verifier serve --config verifier/verifier.json",
    "ironclaw verifier serve --config verifier/verifier.json --tls-cert tls.pem --tls-key tls.key --tls-client-ca people.pem",
  ],
  talks: true,
  run: async (input, io) => {
    const { config, folder } = await readVerifierConfig(input);
    const journal = new Journal("verifier", (line) => io.complain(line));
    journal.begin(process.env);
    const log = serviceLog(journal);
    const service = await openVerifierService(config, { folder, loadKey: loadSigningKey, log });
    const ended = untilTold(service, journal);
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
function untilTold(service: Service, journal: Journal): Promise<void> {
  process.on("SIGHUP", () => {
    service.reload().then(
      ({ policy, releases }) => journal.notice(`reloaded: policy ${policy.document.name}, ${releases.length} releases`),
      (error: unknown) => journal.error(`kept what was in force: ${reasonOf(error)}`),
    );
  });
  return new Promise((resolve) => {
    for (const signal of ["SIGTERM", "SIGINT"] as const) process.once(signal, () => resolve());
  });
}

function reasonOf(error: unknown): string {
  return error instanceof IronclawError ? `${error.message} (${error.code})` : "an unforeseen failure";
}
