import { encodeSshKeyLine, encodeSshSignature, utf8 } from "../../../policy/index.ts";
import { machine } from "../../support/approvals-fixture.ts";
import { testSshKey } from "../../support/ssh-keys.ts";
import { filled, type Seeds } from "./made.ts";

export function approvalSeeds(): Record<string, Seeds> {
  const [plain, security] = [testSshKey(null, filled(32, 1)), testSshKey("ssh:", filled(32, 2))];
  const line = (key: typeof plain.key, verifyRequired: boolean, comment: string) =>
    utf8(encodeSshKeyLine({ key, verifyRequired, comment }));
  const at = machine();
  const message = utf8("ironclaw-approval@1\n");
  return {
    "ssh-public-key": {
      plain: line(plain.key, false, "alice@desk"),
      security: line(security.key, true, "Bob's key"),
      bare: line(security.key, false, ""),
    },
    "approval-text": {
      operation: at.textOf(at.open({ parameters: "oaep hash=0x250 mgf=2 label=\\\u00e9" })),
      window: at.textOf(at.open({ scope: "night" })),
    },
    "ssh-signature": {
      plain: utf8(plain.armored(message)),
      security: utf8(security.armored(message, { hash: "sha256", security: { flags: 5, counter: 65_536 } })),
      wide: utf8(encodeSshSignature(plain.sign(message), 76)),
    },
  };
}
