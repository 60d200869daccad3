/** Thrown by a target when what was accepted breaks a law of its format. Not one of the project's errors, hence a finding. */
export class BrokenProperty extends Error {
  constructor(message: string) {
    super(message);
    this.name = "BrokenProperty";
  }
}

/** Accepted bytes have one encoding: writing what was read gives them back. */
export function expectSame(bytes: Uint8Array, again: Uint8Array, what: string): void {
  if (bytes.length === again.length && bytes.every((byte, index) => byte === again[index])) return;
  throw new BrokenProperty(`${what}: accepted bytes encode to others`);
}

export function expectTrue(holds: boolean, law: string): void {
  if (!holds) throw new BrokenProperty(law);
}
