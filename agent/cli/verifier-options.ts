import { dirname, resolve } from "node:path";
import {
  openVerifierClient,
  parseVerifierConfig,
  type VerifierClient,
  type VerifierConfig,
} from "../../attest/service/index.ts";
import { type CommandInput, type CommandOption, UsageError } from "./command.ts";
import { readInput, readText } from "./files.ts";

export const CONFIG_OPTION: CommandOption = {
  type: "string",
  value: "FILE",
  help: "the service's configuration (verifier.json)",
  required: true,
};

export const TLS_OPTIONS = {
  "tls-cert": {
    type: "string",
    value: "FILE",
    help: "serve TLS with this certificate (PEM), instead of what the configuration says",
  },
  "tls-key": { type: "string", value: "FILE", help: "its private key (PEM)" },
  "tls-client-ca": {
    type: "string",
    value: "FILE",
    help: "whose client certificates may name a viewer or operator (PEM)",
  },
} as const satisfies Record<string, CommandOption>;

export const SERVICE_OPTIONS = {
  to: {
    type: "string",
    value: "URL",
    help: "the service: https://..., http:// to this machine, or unix:/path",
    required: true,
  },
  ca: { type: "string", value: "FILE", help: "CA of an https: service (PEM; default: the system's)" },
} as const satisfies Record<string, CommandOption>;

export const OPERATOR_OPTION: CommandOption = {
  type: "string",
  value: "FILE",
  help: "file with an operator's token",
  required: true,
};

export const VIEWER_OPTION: CommandOption = { ...OPERATOR_OPTION, help: "file with a viewer's or operator's token" };

export const operatorToken = (input: CommandInput) => readToken(input, "operator's token");
export const viewerToken = (input: CommandInput) => readToken(input, "viewer's token");

async function readToken(input: CommandInput, what: string): Promise<string> {
  return (await readText(input.text("token"), what)).trim();
}

export const MACHINE_OPTION: CommandOption = {
  type: "string",
  value: "DIR",
  help: "the running machine's directory of port sockets",
  required: true,
};

/** The configuration, with what the command line says instead, and where its relative paths start. */
export async function readVerifierConfig(
  input: CommandInput,
): Promise<{ readonly config: VerifierConfig; readonly folder: string }> {
  const file = input.text("config");
  const config = parseVerifierConfig(await readInput(file, "verifier configuration"));
  const [certificate, key, clientCa] = ["tls-cert", "tls-key", "tls-client-ca"].map((name) => {
    const path = input.optional(name);
    return path === undefined ? undefined : resolve(path);
  });
  const folder = resolve(dirname(file));
  if (certificate === undefined && key === undefined && clientCa === undefined) return { config, folder };
  if (certificate === undefined || key === undefined)
    throw new UsageError("--tls-cert and --tls-key", { expected: "both", got: "one of them" });
  return { config: { ...config, tls: { certificate, key, clientCa: clientCa ?? null } }, folder };
}

export async function openService(input: CommandInput): Promise<VerifierClient> {
  const ca = input.optional("ca");
  return openVerifierClient({
    to: input.text("to"),
    ca: ca === undefined ? null : new TextEncoder().encode(await readText(ca, "CA")),
  });
}

export function machineName(text: string): string {
  if (/^[\w.-]{1,64}$/.test(text)) return text;
  throw new UsageError("NAME", { expected: "1 to 64 letters, digits, dots, dashes and underscores", got: text });
}
