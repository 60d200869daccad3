import * as z from "zod";

/**
 * Imported before every schema: zod otherwise compiles a reader for each at its first use. Nearly all documents are read once, and to make
 * code takes longer than to read one without.
 */
z.config({ jitless: true });
