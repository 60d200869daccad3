import { isNormalisedPath } from "./policy-fields.ts";

/** Where a stream socket connects to or listens. Addresses are literals in their one canonical spelling: a name would be whoever answers for it. */
export type Endpoint =
  | { readonly kind: "tcp"; readonly address: string; readonly port: number; readonly loopback: boolean }
  | { readonly kind: "unix"; readonly path: string };

/** `sun_path` of a Unix socket, without the NUL at its end. */
const MAX_SOCKET_PATH = 107;
const PORT = /^(.*):([1-9][0-9]{0,4})$/;

/** `192.0.2.7:1500`, `[2001:db8::7]:1500` or an absolute path; null for anything else. Does not say that anything is there. */
export function parseEndpoint(text: string): Endpoint | null {
  if (text.startsWith("/")) {
    const fits = new TextEncoder().encode(text).length <= MAX_SOCKET_PATH;
    return fits && isNormalisedPath(text) ? { kind: "unix", path: text } : null;
  }
  const [, host = "", digits = ""] = PORT.exec(text) ?? [];
  const port = Number(digits);
  const address = canonicalAddress(host);
  if (address === null || port < 1 || port > 65_535) return null;
  return { kind: "tcp", address, port, loopback: address === "127.0.0.1" || address === "[::1]" };
}

/** An address has one spelling here, so that two texts are two endpoints. The unspecified ones are nobody's. */
function canonicalAddress(host: string): string | null {
  if (!/^(?:[0-9.]+|\[[0-9a-f:.]+\])$/.test(host)) return null;
  if (!URL.canParse(`http://${host}/`) || new URL(`http://${host}/`).hostname !== host) return null;
  return host === "0.0.0.0" || host === "[::]" ? null : host;
}
