import type { SigningKey } from "../../policy/index.ts";
import { loadSigningKey } from "../../seal/index.ts";
import type { CommandOption } from "./command.ts";
import { isPkcs11Uri, parsePkcs11Uri } from "./pkcs11-uri.ts";

/** An option that names a private key. */
export function signingKeyOption(whose: string): CommandOption {
  return {
    type: "string",
    value: "KEY",
    help: `${whose} (private): PEM file, mode 0600, or pkcs11: URI`,
    required: true,
  };
}

/**
 * A private key by its file, or by a `pkcs11:` URI on a token. Nothing stays open behind it: a token's session lasts for one signature.
 * @throws SealError ERR_KEY_FILE, ERR_KEY_TOKEN; UsageError for a URI that names no key
 */
export async function openSigningKey(text: string): Promise<SigningKey> {
  if (!isPkcs11Uri(text)) return loadSigningKey(text);
  const uri = parsePkcs11Uri(text);
  // Only now: without a token no PKCS#11 code is loaded.
  const { openTokenKey } = await import("./token-key.ts");
  return openTokenKey(uri);
}
