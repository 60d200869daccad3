/** What a code says, and what whoever reads it should do. Plain text with code spans; one line each. */
export interface Meaning {
  readonly means: string;
  readonly act: string;
}

export type Meanings = Readonly<Record<string, Meaning>>;
