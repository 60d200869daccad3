import { parseEar } from "../../../attest/index.ts";
import { expectTrue } from "../property.ts";

/** Base64url has one text for its bytes here, so what was read spells the token again. */
export function run(bytes: Uint8Array): void {
  const token = new TextDecoder().decode(bytes);
  const { input, signature } = parseEar(token);
  const again = `${new TextDecoder().decode(input)}.${signature.toBase64({ alphabet: "base64url", omitPadding: true })}`;
  expectTrue(again === token, "token: what was read is another text");
}
