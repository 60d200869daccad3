/// <reference lib="dom" />

/** The viewer's token of this tab. */
export interface Session {
  readonly token: string | null;
  /** @param keep whether it outlives a reload of this tab; it never outlives the tab */
  signIn(token: string, keep: boolean): void;
  signOut(): void;
}

const key = "ironclaw-viewer-token";

/**
 * In memory unless the viewer asks for more. Session storage belongs to one tab and ends with it, and browsers may write it to disk to
 * restore the tab: that is why it is a choice. Never in a cookie, an address or local storage.
 */
export function createSession(storage: Storage): Session {
  let token = storage.getItem(key);
  return {
    get token() {
      return token;
    },
    signIn(given, keep) {
      token = given;
      if (keep) storage.setItem(key, given);
      else storage.removeItem(key);
    },
    signOut() {
      token = null;
      storage.removeItem(key);
    },
  };
}

/** What can stand in an Authorization header; RFC 6750 section 2.1. */
export function isToken(text: string): boolean {
  return /^[A-Za-z0-9._~+/-]+=*$/.test(text) && text.length <= 512;
}
