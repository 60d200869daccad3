// A bug behind six bytes that have to be right one after another: blind mutation does not get there.
const magic = [0xc3, 0x17, 0x5a, 0xe1, 0x06, 0x9d];

export function run(bytes: Uint8Array): void {
  for (const [index, byte] of magic.entries()) {
    if (bytes[index] !== byte) return;
  }
  throw new Error("planted");
}
