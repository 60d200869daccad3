import { type LaunchEvent, launchEvent, predictAgentPcr } from "../../attest/launch-events.ts";
import { fromHex, type SigningKey, toHex } from "../../policy/index.ts";
import { signDelegation, signRelease } from "../../seal/index.ts";
import { makeReference } from "./evidence-maker.ts";

/** A signed release that honest reports of the evidence maker match. */
export async function signedReference(keys: {
  readonly root: SigningKey;
  readonly releaseKey: SigningKey;
}): Promise<Uint8Array> {
  const { root, releaseKey } = keys;
  const { name, image, events, notBefore, notAfter, pcrs } = makeReference();
  const measured: readonly LaunchEvent[] = events.map((event) =>
    launchEvent(event.kind, event.name, fromHex(event.sha256)),
  );
  const agent = predictAgentPcr(measured);
  const approved = { releaseKeyPem: releaseKey.spkiPem, credentials: ["hsm-pin"], lastEpoch: 8 };
  const delegation = await signDelegation(root, approved);
  const values = {
    sha256: { ...pcrs.sha256, "13": toHex(agent.sha256) },
    sha384: { ...pcrs.sha384, "13": toHex(agent.sha384) },
  };
  const draft = { name, image, epoch: 1, raise: false, pcrs: values, events, notBefore, notAfter };
  return signRelease(draft, { releaseKey, delegation, rootKeyPem: root.spkiPem });
}
