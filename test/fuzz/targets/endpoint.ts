import { parseEndpoint } from "../../../policy/endpoint.ts";
import { expectTrue } from "../property.ts";

export function run(bytes: Uint8Array): void {
  const text = new TextDecoder().decode(bytes);
  const read = parseEndpoint(text);
  if (read === null) return;
  expectTrue(
    text === (read.kind === "unix" ? read.path : `${read.address}:${read.port}`),
    "endpoint: another spelling",
  );
}
