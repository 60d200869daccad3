import { parseStart, parseUnit } from "../../../agent/processes.ts";
import { parseListenFds } from "../../../agent/scopes/listen-fds.ts";
import { expectTrue } from "../property.ts";

/** What the kernel says of a process, and the agent's starter of its sockets: one text, the first byte says as what it is read. */
export function run(bytes: Uint8Array): void {
  const text = Buffer.from(bytes.subarray(1)).toString("latin1");
  const kind = (bytes[0] ?? 0) % 3;
  if (kind === 0) {
    const unit = parseUnit(text);
    expectTrue(
      unit === null || (text.includes(unit) && /^[!-~]{1,255}$/.test(unit)),
      "unit: a printable part of the text",
    );
  } else if (kind === 1) {
    expectTrue(Number.isFinite(parseStart(text)), "start time: a number");
  } else {
    const [count, names] = text.split(" ", 2);
    const found = parseListenFds({ LISTEN_PID: "77", LISTEN_FDS: count, LISTEN_FDNAMES: names }, { pid: 77, first: 4 });
    const whole = [...found.keys()].map((name) => `${name}.sock`).join(":");
    expectTrue(whole === names && found.size === Number(count), "sockets: each descriptor has its name");
  }
}
