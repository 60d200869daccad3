import { FailureBudgets, KeyRing, LivePolicy, NO_METER, type Token, Usage } from "../../../agent/broker/index.ts";
import { openScope, type ScopeState } from "../../../agent/broker/scope-state.ts";
import { AgentError } from "../../../agent/errors.ts";
import { type Application, openApplication } from "../../../agent/p11kit/application.ts";
import { ArgumentReader } from "../../../agent/p11kit/codec.ts";
import { HANDLERS } from "../../../agent/p11kit/dispatch.ts";
import { oaep, plain } from "../../support/broker-session.ts";
import {
  type Choices,
  goodCalls,
  type HostileCall,
  hostileCall,
  readReplyValues,
} from "../../support/hostile-calls.ts";
import { SIGNER_EXE, SIGNER_UID } from "../../support/policy-document.ts";
import { Laws } from "../orders/laws.ts";
import { POLICY, PUBLIC_KEYS } from "../orders/scopes.ts";
import { expectTrue } from "../property.ts";

const MAX_CALLS = 64;
/** From here on a byte is one of the good calls. */
const GOOD = 0xc0;
const SCOPES = ["signing", "vault", "intake"] as const;
const CKM_ECDSA = 0x1041;

/** The same for all runs: to read the public keys takes longer than a run. What arrived in one leaves it again. */
const keys = new KeyRing(POLICY, PUBLIC_KEYS);
const peer = { pid: 77, uid: SIGNER_UID, gid: 2001, exe: SIGNER_EXE as `sha256:${string}`, unit: null };

/**
 * The first byte says the protocol version and the scope; then calls in any order, their arguments well-formed by their signatures, and
 * between them those of a caller that knows what it does. The token answers at once, and is asked for nothing that the log does not have.
 */
export async function run(bytes: Uint8Array): Promise<void> {
  const first = bytes[0] ?? 0;
  const version = first % 3;
  const scope = SCOPES[Math.floor(first / 3) % SCOPES.length] ?? "signing";
  const laws = new Laws();
  const stage = openStage(scope, laws);
  const application = openApplication(stage.state, peer, version);
  application.initialized = true;
  const script = scriptOf(scope, version);
  let at = 1;
  const next = (): number => bytes[at++] ?? 0;
  for (let calls = 0; calls < MAX_CALLS && at < bytes.length; calls += 1)
    await oneCall(application, nextCall(next, script, version));
  const arrived = keys.arrival("intake", "restored");
  if (arrived !== null) keys.leave(arrived.key);
  expectTrue(stage.held() === 0 && stage.state.usage.inFlight(scope) === 0, "places: one is not given back");
  laws.verify();
}

function scriptOf(scope: (typeof SCOPES)[number], version: number): readonly HostileCall[] {
  if (scope === "signing") return goodCalls("sign", plain(version, CKM_ECDSA));
  return goodCalls(scope === "vault" ? "decrypt" : "unwrap", oaep(version));
}

function nextCall(next: Choices, script: readonly HostileCall[], version: number): HostileCall {
  const choice = next();
  const good = choice < GOOD ? undefined : script[(choice - GOOD) % script.length];
  if (good !== undefined) return good;
  const choices = [choice];
  return hostileCall(() => choices.pop() ?? next(), version);
}

async function oneCall(application: Application, { row, values }: HostileCall): Promise<void> {
  const handler = HANDLERS.get(row.id);
  if (handler === undefined) return;
  const answer = await handler(application, new ArgumentReader(values, application.version));
  if (answer.kind === "values") readReplyValues(row, answer.values);
  expectTrue(answer.kind !== "error" || answer.rv !== 0n, `${row.name}: an error reply says that all is well`);
  expectTrue(application.sessions.size <= 64, "sessions: more than there may be");
  expectTrue(application.sessions.size > 0 || !application.loggedIn, "login: outlives the last session");
}

/** A scope of a policy that signs, decrypts and unwraps, with a log and a token that know of each other. */
function openStage(scope: string, laws: Laws): { readonly state: ScopeState; held(): number } {
  let [allowed, asked, held] = [0, 0, 0];
  /** What begins with an odd byte the token refuses. */
  const answer = async (bytes: Uint8Array, length: number): Promise<Uint8Array> => {
    asked += 1;
    laws.hold(asked <= allowed, "token: is asked for what is not recorded");
    laws.hold(held > 0, "token: is asked without a place");
    if ((bytes[0] ?? 0) % 2 === 1) throw new AgentError("ERR_SHIM_REFUSED", "shim");
    return new Uint8Array(length);
  };
  const token: Token = {
    reserve: () => {
      held += 1;
      return {
        [Symbol.dispose]: () => {
          held -= 1;
        },
      };
    },
    sign: ({ data }) => answer(data, 64),
    decrypt: ({ data }) => answer(data, 32),
    unwrap: async ({ wrapped }) => void (await answer(wrapped, 0)),
  };
  const head = { seq: 0, hash: "0".repeat(64) };
  const append = async ({ decision }: { readonly decision: string }): Promise<typeof head> => {
    if (decision === "allow") allowed += 1;
    return head;
  };
  const now = (): number => 0;
  const state = openScope(
    {
      ...{ live: new LivePolicy(POLICY), keys, token, meter: NO_METER, now },
      ...{ failures: new FailureBudgets(now), usage: new Usage(now), wallClock: now },
      audit: { append, head: () => head, durableHead: () => head, latest: () => 0, close: () => {} },
      approvals: { approvedBy: () => ({ id: "r1", approvers: ["alice"] }), use: () => true },
    },
    scope,
  );
  return { state, held: () => held };
}
