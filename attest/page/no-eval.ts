import * as z from "zod";

/**
 * Imported before every schema: zod otherwise tries whether it may compile code, which the page's Content-Security-Policy forbids and
 * the browser reports.
 */
z.config({ jitless: true });
