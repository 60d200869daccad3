import { readFile } from "node:fs/promises";

/** SO_ACCEPTCON in the flags column of /proc/net/unix: listen(2) was called. */
const LISTENING = "00010000";

/**
 * Whether some process listens on the Unix socket `path`. The file is there from bind(2) on, and a connection before
 * listen(2) is refused; trying one would be taken for a client.
 */
export async function isListening(path: string): Promise<boolean> {
  const sockets = (await readFile("/proc/net/unix", "utf8")).split("\n");
  return sockets.some((line) => line.endsWith(` ${path}`) && line.trim().split(/\s+/)[3] === LISTENING);
}
