import { stamp } from "../../../agent/metrics/exposition.ts";
import { expectTrue } from "../property.ts";

export function run(bytes: Uint8Array): void {
  const text = new TextDecoder("latin1").decode(bytes);
  const lines = stamp(text, { machine: "vm-1", now: 7 }).trimEnd().split("\n");
  expectTrue(lines.pop() === 'ironclaw_time_seconds{machine="vm-1"} 7', "metrics: the time is not the last series");
  for (const line of lines) {
    const own = /^(?:# (?:HELP|TYPE) ironclaw_|ironclaw_[a-z_]+\{machine="vm-1")/.test(line);
    expectTrue(own, "metrics: a line that is not this machine's");
    expectTrue(/^[ -~]*$/.test(line), "metrics: a line that is no printable text");
    // Another name that begins like it is a series as any other.
    expectTrue(!/^ironclaw_time_seconds[ {]/.test(line), "metrics: a time that the machine wrote");
  }
  const bare = stamp(text, { machine: null, now: 7 });
  expectTrue(bare.endsWith("\nironclaw_time_seconds 7\n"), "metrics: without a name it ends otherwise");
}
