import { createPublicKey } from "node:crypto";
import { FailureBudgets, KeyRing, LivePolicy, NO_APPROVALS, NO_METER, Usage } from "../../../agent/broker/index.ts";
import { openScope } from "../../../agent/broker/scope-state.ts";
import { type Application, openApplication } from "../../../agent/p11kit/application.ts";
import { ArgumentReader } from "../../../agent/p11kit/codec.ts";
import { HANDLERS } from "../../../agent/p11kit/dispatch.ts";
import { parsePolicy, sha256Hex } from "../../../policy/index.ts";
import { hostileCall, readReplyValues } from "../../support/hostile-calls.ts";
import { documentBytes, policyDocument, SIGNER_EXE, SIGNER_UID } from "../../support/policy-document.ts";
import { BrokenProperty, expectTrue } from "../property.ts";

/** These wait for the token or for the log, and a target cannot: door-orders.test.ts has them among the others. */
const WAITING = new Set(["C_SignInit", "C_Sign", "C_SignFinal", "C_DecryptInit", "C_Decrypt", "C_UnwrapKey"]);
const MAX_CALLS = 64;

const peer = { pid: 77, uid: SIGNER_UID, gid: 2001, exe: SIGNER_EXE as `sha256:${string}`, unit: null };
const state = signingScope();

/** The first byte says the protocol version; then calls in any order, their arguments well-formed by their signatures. */
export function run(bytes: Uint8Array): void {
  const version = (bytes[0] ?? 0) % 3;
  let at = 1;
  const next = (): number => bytes[at++] ?? 0;
  const application = openApplication(state, peer, version);
  application.initialized = true;
  for (let calls = 0; calls < MAX_CALLS && at < bytes.length; calls += 1) oneCall(application, next);
}

function oneCall(application: Application, next: () => number): void {
  const { row, values } = hostileCall(next, application.version);
  const handler = WAITING.has(row.name) ? undefined : HANDLERS.get(row.id);
  if (handler === undefined) return;
  const answer = handler(application, new ArgumentReader(values, application.version));
  if (answer instanceof Promise) throw new BrokenProperty(`${row.name}: waits`);
  if (answer.kind === "values") readReplyValues(row, answer.values);
  expectTrue(answer.kind !== "error" || answer.rv !== 0n, `${row.name}: an error reply says that all is well`);
  expectTrue(application.sessions.size <= 64, "sessions: more than there may be");
  expectTrue(application.sessions.size > 0 || !application.loggedIn, "login: outlives the last session");
}

/** One scope with the public key of the private key 1, and nothing behind it. */
function signingScope(): ReturnType<typeof openScope> {
  const jwk = {
    ...{ kty: "EC", crv: "P-256", x: "axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY" },
    y: "T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU",
  };
  const spki = Uint8Array.from(createPublicKey({ key: jwk, format: "jwk" }).export({ format: "der", type: "spki" }));
  const document = policyDocument();
  document.keys = { "release-ec": { spki: `sha256:${sha256Hex(spki)}`, does: "sign" } };
  document.scopes = document.scopes.slice(0, 1);
  const policy = parsePolicy(documentBytes(document));
  const reached = (): never => {
    throw new BrokenProperty("a call that waits for nobody reaches the token or the log");
  };
  const head = { seq: 0, hash: "0".repeat(64) };
  const keys = new KeyRing(policy, new Map([["release-ec", { spki, id: Uint8Array.of(1), label: "release-ec" }]]));
  const now = () => 0;
  return openScope(
    {
      ...{ live: new LivePolicy(policy), keys, failures: new FailureBudgets(now), usage: new Usage(now), now },
      ...{ token: { reserve: reached, sign: reached, decrypt: reached, unwrap: reached }, wallClock: now },
      audit: { append: reached, head: () => head, durableHead: () => head, latest: () => 0, close: () => {} },
      ...{ approvals: NO_APPROVALS, meter: NO_METER },
    },
    "release-signing",
  );
}
