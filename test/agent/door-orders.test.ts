import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { AuditLog } from "../../agent/audit/log.ts";
import type { Token } from "../../agent/broker/index.ts";
import { openScope } from "../../agent/broker/scope-state.ts";
import { openApplication } from "../../agent/p11kit/application.ts";
import { answerCall } from "../../agent/p11kit/dispatch.ts";
import { parsePolicy, sha256Hex } from "../../policy/index.ts";
import { decryptionScopes, openBroker, SIGNER_PEER, softwareKeys } from "../support/broker-fixture.ts";
import { oaep, plain } from "../support/broker-session.ts";
import { goodCalls, type HostileCall, hostileCall, readReplyValues } from "../support/hostile-calls.ts";
import { documentBytes, policyDocument } from "../support/policy-document.ts";

const keys = softwareKeys();
const document = policyDocument();
for (const [name, { spki }] of keys.publicKeys)
  document.keys[name] = { spki: `sha256:${sha256Hex(spki)}`, does: name === "vault" ? "decrypt" : "sign" };
decryptionScopes(document);
const policy = parsePolicy(documentBytes(document));

/** A scope whose log and token are counted. */
function counted(scope: string) {
  const seen = { allowed: 0, asked: 0, unrecorded: 0 };
  const head = { seq: 0, hash: "0".repeat(64) };
  const audit: AuditLog = {
    append: async ({ decision }) => {
      if (decision === "allow") seen.allowed += 1;
      return head;
    },
    ...{ head: () => head, durableHead: () => head, latest: () => 0, close: () => {} },
  };
  const asked = () => {
    seen.asked += 1;
    if (seen.asked > seen.allowed) seen.unrecorded += 1;
  };
  const token: Token = {
    ...keys,
    sign: (request) => {
      asked();
      return keys.sign(request);
    },
    decrypt: (request) => {
      asked();
      return keys.decrypt(request);
    },
  };
  return { seen, state: openScope(openBroker(policy, keys.publicKeys, { token, audit }), scope) };
}

/** Calls that use the scope's key as its caller would; the hostile ones come between them. */
function script(scope: string, version: number): readonly HostileCall[] {
  const mechanism = {
    ...{ "release-signing": plain(version, 0x1041), "rsa-signing": plain(version, 0x40) },
    ...{ vault: oaep(version), legacy: plain(version, 1) },
  }[scope];
  return goodCalls(scope.endsWith("signing") ? "sign" : "decrypt", mechanism ?? new Uint8Array());
}

describe("calls in any order, with arguments that are well-formed and make no sense", () => {
  it.each(["release-signing", "rsa-signing", "vault", "legacy"])(
    "I10: in scope %s every one of them, between good ones too, is answered by its signature or a code, and the token is asked only for what the log allows",
    async (scope) => {
      const sequence = fc.tuple(fc.nat(2), fc.uint8Array({ minLength: 60, maxLength: 240 }));
      let asked = 0;
      await fc.assert(
        fc.asyncProperty(sequence, async ([version, bytes]) => {
          const { seen, state } = counted(scope);
          const application = openApplication(state, SIGNER_PEER, version);
          application.initialized = true;
          const good = script(scope, version);
          let at = 0;
          let used = 0;
          const next = () => bytes[at++] ?? 0;
          while (at < bytes.length) {
            const isGood = next() % 2 === 0;
            const { row, values } = (isGood ? good[used++ % good.length] : null) ?? hostileCall(next, version);
            const call = { call: row.id, signature: row.request, values };
            const answer = await answerCall(application, call);
            if (answer.kind === "values") readReplyValues(row, answer.values);
            if (answer.kind === "error") expect(answer.rv).not.toBe(0n);
          }
          expect(seen.unrecorded).toBe(0);
          asked += seen.asked;
        }),
        { numRuns: 60 },
      );
      expect(asked).toBeGreaterThan(0);
    },
  );
});
