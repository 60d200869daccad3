import {
  parseOpenStateReply,
  parsePeerExeReply,
  parsePrepareShimReply,
  parseShimStatusReply,
  parseStartShimReply,
  parseStartWorkloadsReply,
  parseStopShimReply,
  SPAWNER_OPS,
} from "../../../agent/spawner-messages.ts";

export function run(bytes: Uint8Array): void {
  switch (bytes[0]) {
    case SPAWNER_OPS.prepareShim:
      parsePrepareShimReply(bytes, 2);
      return;
    case SPAWNER_OPS.peerExe:
      parsePeerExeReply(bytes);
      return;
    case SPAWNER_OPS.shimStatus:
      parseShimStatusReply(bytes);
      return;
    case SPAWNER_OPS.startWorkloads:
      parseStartWorkloadsReply(bytes);
      return;
    case SPAWNER_OPS.openState:
      parseOpenStateReply(bytes);
      return;
    case SPAWNER_OPS.stopShim:
      parseStopShimReply(bytes);
      return;
    default:
      parseStartShimReply(bytes);
  }
}
