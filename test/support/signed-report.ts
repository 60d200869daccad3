import { type Challenge, encodeEvidence } from "../../attest/evidence.ts";
import { encodeEnrolment, predictAgentPcr } from "../../attest/index.ts";
import type { LaunchEvent } from "../../attest/launch-events.ts";
import { encodeAnchors, preUnsealKinds, type Release, toHex } from "../../policy/index.ts";
import { signRelease } from "../../seal/release.ts";
import { makeEvidence, makeReference, type Scene, servingEvents } from "./evidence-maker.ts";
import { createSealKeys, type SealKeys, signDelegationOf } from "./seal-fixture.ts";

/** Everything that a verifier is given, as files: a report that verifies and is affirmed by the default policy at any time of this century. */
export interface SignedReport {
  readonly report: Uint8Array;
  readonly challenge: Challenge;
  readonly enrolment: Uint8Array;
  readonly anchors: Uint8Array;
  readonly release: Uint8Array;
  readonly keys: SealKeys;
}

export async function makeSignedReport(changes: Partial<Scene> = {}): Promise<SignedReport> {
  const { evidence, challenge, enrolment } = await makeEvidence(changes);
  const keys = await createSealKeys();
  const { name, image, pcrs } = makeReference();
  const expected = (changes.events ?? servingEvents()).filter(isExpected);
  const agent = predictAgentPcr(expected);
  const draft = {
    ...{ name, image, epoch: 1, raise: false },
    events: expected.map(({ kind, name: item, sha256 }) => ({ kind, name: item, sha256: toHex(sha256) })),
    ...{ notBefore: "2001-01-01T00:00:00Z", notAfter: "2100-12-31T23:59:59Z" },
    pcrs: {
      sha256: { ...pcrs.sha256, 13: toHex(agent.sha256) },
      sha384: { ...pcrs.sha384, 13: toHex(agent.sha384) },
    },
  };
  const delegation = await signDelegationOf(keys);
  return {
    report: encodeEvidence(evidence),
    challenge,
    enrolment: encodeEnrolment(enrolment),
    anchors: encodeAnchors(keys.anchors),
    release: await signRelease(draft, { releaseKey: keys.releaseKey, delegation, rootKeyPem: keys.root.spkiPem }),
    keys,
  };
}

type ExpectedEvent = LaunchEvent & { readonly kind: Release["events"][number]["kind"] };

/** What a release predicts: all before the unseal. */
function isExpected(event: LaunchEvent): event is ExpectedEvent {
  return (preUnsealKinds as readonly string[]).includes(event.kind);
}
