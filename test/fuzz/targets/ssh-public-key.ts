import {
  encodeSshKeyBlob,
  encodeSshKeyLine,
  parseSshKeyBlob,
  parseSshKeyLine,
  sshFingerprint,
} from "../../../policy/ssh-public-key.ts";
import { expectSame, expectTrue } from "../property.ts";

export function run(bytes: Uint8Array): void {
  const text = new TextDecoder("latin1").decode(bytes);
  const line = parseSshKeyLine(text);
  expectTrue(encodeSshKeyLine(line) === text, "SSH public key: an accepted line is written otherwise");
  const blob = encodeSshKeyBlob(line.key);
  expectSame(blob, encodeSshKeyBlob(parseSshKeyBlob(blob)), "SSH public key");
  expectTrue(sshFingerprint(line.key).length === 50, "SSH public key: a fingerprint of another length");
}
