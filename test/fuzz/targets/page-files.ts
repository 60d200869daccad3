import { parseNonce, parsePcrList, readChallenge, roleOf, writePcrList } from "../../../attest/page/check-files.ts";
import { visible } from "../../../attest/page/dom.ts";
import { routeOf } from "../../../attest/page/routes.ts";
import { expectTrue } from "../property.ts";

/** What the page reads before any strict parser does: none of it may throw, and what it shows hides nothing. */
export function run(bytes: Uint8Array): void {
  roleOf(bytes);
  const challenge = readChallenge(bytes);
  expectTrue(challenge === null || challenge.nonce.length <= 128, "page: a challenge with a nonce without end");
  const text = new TextDecoder().decode(bytes);
  expectTrue(!/[\p{C}\p{Zl}\p{Zp}]/u.test(visible(text)), "page: text that hides something is shown");
  routeOf(`#/${text}`);
  expectTrue((parseNonce(text)?.length ?? 32) === 32, "page: a nonce of another length");
  const pcrs = parsePcrList(text);
  if (pcrs !== null)
    expectTrue(`${parsePcrList(writePcrList(pcrs))}` === `${pcrs}`, "page: a list of registers changes");
}
