import type { Tamper, WireFrame } from "./shim-wire.ts";

/** One way in which a frame can arrive other than it was sent. */
export interface Damage {
  readonly name: string;
  /**
   * Nothing of the protocol shows it: another payload, of another length where the length is free, another request's id, or the next message's
   * bytes in the place of lost ones.
   */
  readonly silent?: boolean;
  readonly to: (bytes: Buffer) => ReturnType<Tamper>;
}

const HEADER = { request: 9, reply: 17 } as const;
/** The length's last byte; behind it the id, up to the op. */
const [LENGTH_END, OP_AT] = [3, 8];

/** Of these lengths of a frame: nothing, within each field, behind each field, and all but the last byte. */
function cuts({ way, bytes }: WireFrame): readonly Damage[] {
  const header = HEADER[way];
  const lengths = [0, 1, 4, 6, 8, 9, 13, header, header + ((bytes.length - header) >> 1), bytes.length - 1];
  const within = [...new Set(lengths)].filter((length) => length < bytes.length).sort((a, b) => a - b);
  return within.flatMap((length) => [
    { name: `cut to ${length}, then closed`, to: (whole) => ({ send: [whole.subarray(0, length)], end: true }) },
    ...(length === 0 ? [] : [{ name: `cut to ${length}`, silent: length > OP_AT, to: cutTo(length) }]),
  ]);
}

const cutTo = (length: number) => (whole: Buffer) => ({ send: [whole.subarray(0, length)] });

/** A bit of each byte of the header, the lowest and the highest, and a sample of the payload. */
function flips({ way, bytes }: WireFrame): readonly Damage[] {
  const header = HEADER[way];
  const rest = bytes.length - header;
  const sampled = [0, 1, 7, 8, 15, 16, rest >> 2, rest >> 1, rest - 1].filter((at) => at >= 0 && at < rest);
  const places = [...Array(header).keys(), ...new Set(sampled.map((at) => header + at))];
  return places.flatMap((at) =>
    [0x01, 0x80].map((bit) => ({
      name: `byte ${at} ^ ${bit}`,
      silent: at >= header || (at >= LENGTH_END && at < OP_AT),
      to: (whole) => {
        const changed = Buffer.from(whole);
        changed[at] = (changed[at] ?? 0) ^ bit;
        return { send: [changed] };
      },
    })),
  );
}

const WHOLE: readonly Damage[] = [
  { name: "dropped", to: () => ({ send: [] }) },
  { name: "sent twice", to: (bytes) => ({ send: [bytes, bytes] }) },
  { name: "behind the next one", to: () => "hold" },
  { name: "a byte more", silent: true, to: (bytes) => ({ send: [longer(bytes)] }) },
  { name: "a byte behind it", to: (bytes) => ({ send: [bytes, Uint8Array.of(0)] }) },
  { name: "in single bytes", to: (bytes) => ({ send: [...bytes].map((byte) => Uint8Array.of(byte)) }) },
  { name: "zeros", to: (bytes) => ({ send: [Buffer.alloc(bytes.length)] }) },
];

function longer(bytes: Buffer): Buffer {
  const more = Buffer.concat([bytes, Buffer.alloc(1)]);
  more.writeUInt32BE(more.length - 4, 0);
  return more;
}

export function damagesOf(frame: WireFrame): readonly Damage[] {
  return [...cuts(frame), ...flips(frame), ...WHOLE];
}

/** Does this to one frame, and passes on all others. */
export function only({ way, index }: Pick<WireFrame, "way" | "index">, { to }: Damage): Tamper {
  return (frame) => (frame.way === way && frame.index === index ? to(frame.bytes) : null);
}

export function caseName({ way, op, index }: WireFrame, { name }: Damage): string {
  return `${way} ${op} ${index}, ${name}`;
}
