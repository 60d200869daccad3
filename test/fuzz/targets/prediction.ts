import { parsePrediction } from "../../../agent/cli/prediction.ts";

export function run(bytes: Uint8Array): void {
  parsePrediction(bytes);
}
