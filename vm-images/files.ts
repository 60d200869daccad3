/** A file as the guest sees it: absolute path and content. */
export interface ImageFile {
  readonly path: string;
  readonly bytes: Uint8Array;
}
