import { Players } from "../orders/players.ts";
import { Stage } from "../orders/stage.ts";

export const maxLength = 1024;
const MAX_STEPS = 160;

/**
 * Bytes are steps at both ends of native doors: requests that are put together, sent whole, together or in pieces, cancelled and repeated,
 * by clients that read or do not, stay or go; and whatever log, token, clock and operators do meanwhile. Answers are held to `orders/laws.ts`.
 */
export async function run(bytes: Uint8Array): Promise<void> {
  const stage = new Stage();
  const players = new Players(stage);
  let at = 0;
  const next = () => bytes[at++] ?? 0;
  for (let steps = 0; steps < MAX_STEPS && at < bytes.length; steps += 1) await players.step(next);
  await stage.finish();
}
