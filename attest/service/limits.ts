import { fullBucket, type Rate, refill, spend, type TokenBucket } from "../../policy/index.ts";

/**
 * A token bucket for each peer, for at most `peers` of them: the one that was quiet for longest is forgotten first, and begins with a
 * full bucket when it comes back. Does not stop somebody with very many addresses: the caps of connections, queue and challenges do.
 */
export class PeerLimits {
  readonly #rate: Rate;
  readonly #peers: number;
  readonly #buckets = new Map<string, TokenBucket>();

  constructor(rate: Rate, peers: number) {
    this.#rate = rate;
    this.#peers = peers;
  }

  /** Whether this request is within the peer's rate; it is counted then. @param now milliseconds */
  admit(peer: string, now: number): boolean {
    const known = this.#buckets.get(peer);
    const bucket = known === undefined ? fullBucket(this.#rate, now) : refill(this.#rate, known, now);
    const admitted = bucket.tokens >= 1;
    this.#buckets.delete(peer);
    this.#buckets.set(peer, admitted ? spend(bucket) : bucket);
    const [quietest] = this.#buckets.keys();
    if (this.#buckets.size > this.#peers && quietest !== undefined) this.#buckets.delete(quietest);
    return admitted;
  }
}

/** Who connects: an IPv4 address, the /56 network of an IPv6 one (a customer has all of it), or `unix`. */
export function peerOf(address: string | undefined): string {
  if (address === undefined || address === "") return "unix";
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address);
  if (mapped?.[1] !== undefined) return mapped[1];
  if (!address.includes(":")) return address;
  const [head = "", tail = ""] = (address.split("%")[0] ?? "").toLowerCase().split("::");
  const groups = head === "" ? [] : head.split(":");
  const behind = tail === "" ? [] : tail.split(":");
  const zeros = address.includes("::") ? Math.max(0, 8 - groups.length - behind.length) : 0;
  const all = [...groups, ...new Array<string>(zeros).fill("0"), ...behind];
  const fourth = (Number.parseInt(all[3] ?? "0", 16) & 0xff00).toString(16);
  return `${[...all.slice(0, 3), fourth].join(":")}::/56`;
}
