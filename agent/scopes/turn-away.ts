import type { Sockets } from "../native/index.ts";

/**
 * For a launch that was refused: whoever connects to an inherited socket is turned away at once. The service manager made them before
 * anybody knew, and would let clients wait for as long as the machine runs.
 */
export function turnAway(native: Pick<Sockets, "accept">, inherited: ReadonlyMap<string, number>): void {
  for (const fd of inherited.values()) native.accept(fd, (stream) => stream.close());
}
