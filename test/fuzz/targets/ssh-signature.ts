import { encodeSshSignature, parseSshSignature } from "../../../policy/ssh-signature.ts";
import { expectTrue } from "../property.ts";

export function run(bytes: Uint8Array): void {
  const text = new TextDecoder("latin1").decode(bytes);
  const signature = parseSshSignature(text);
  const again = ([70, 76] as const).map((width) => encodeSshSignature(signature, width).trimEnd());
  expectTrue(again.includes(text.endsWith("\n") ? text.slice(0, -1) : text), "SSH signature: written otherwise");
}
