import { AgentError } from "../errors.ts";
import type { CKR } from "./ckr.ts";
import type { BrokerKey } from "./key.ts";
import { type Refused, refused } from "./refused.ts";
import type { ScopeState } from "./scope-state.ts";

/**
 * What a caller is told when the token gave no result: one code for all that it answers, another for one that did not answer. A key that is
 * gone, because the shim that had it ended, is seen no longer.
 */
export function refusedByToken(
  { keys }: Pick<ScopeState, "keys">,
  key: BrokerKey,
  error: unknown,
  answered: keyof typeof CKR,
): Refused {
  const code = error instanceof AgentError ? error.code : null;
  if (code === "ERR_KEY_GONE") {
    keys.leave(key);
    return refused("KEY_HANDLE_INVALID", "token");
  }
  return refused(code === "ERR_SHIM_REFUSED" || code === "ERR_KEY_MISMATCH" ? answered : "DEVICE_ERROR", "token");
}
