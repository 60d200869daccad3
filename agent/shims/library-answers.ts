// What a library's answers (CKR_...) say of its token, beside the operation that was asked for.

/**
 * Codes by which a library says that its login is gone: CKR_DEVICE_REMOVED, CKR_SESSION_CLOSED, CKR_SESSION_HANDLE_INVALID,
 * CKR_TOKEN_NOT_PRESENT, CKR_USER_NOT_LOGGED_IN.
 */
const LOGIN_LOST: ReadonlySet<bigint> = new Set([0x32n, 0xb0n, 0xb3n, 0xe0n, 0x101n]);
/**
 * Codes that say something about the operation itself: its arguments, data, ciphertext, key, mechanism, template or wrapped key, and the shim's
 * own. Any other (CKR_DEVICE_ERROR, CKR_GENERAL_ERROR, one of the library's own making) may also be what a library says when its HSM is
 * gone: then it is looked whether the token still shows its keys.
 */
const OF_THE_OPERATION: ReadonlySet<bigint> = new Set([
  ...[0x7n, 0x13n, 0x20n, 0x21n, 0x40n, 0x41n, 0x62n, 0x63n, 0x68n, 0x70n, 0x71n, 0xc0n, 0xc1n, 0xd0n, 0xd1n],
  ...[0xf0n, 0xf1n, 0xf2n, 0x110n, 0x112n, 0x150n, 0x80494302n, 0x80494303n],
]);

export function isLoginLost(rv: bigint): boolean {
  return LOGIN_LOST.has(rv);
}

export function isOfTheOperation(rv: bigint): boolean {
  return OF_THE_OPERATION.has(rv);
}
