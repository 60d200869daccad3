#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What a client signs: a P-256 digest by CKM_ECDSA, or a DigestInfo of SHA-256 by CKM_RSA_PKCS. */
struct work {
	bool rsa;
	unsigned long mechanism;
	uint8_t data[64];
	size_t length;
};

/* A way to a key. Each client is a process of its own and prepares itself after the fork. */
struct way {
	/* False: it did not work this time, and is tried again in a process of its own. */
	bool (*prepare)(char **arguments, const struct work *);
	/* Signs until `may_go_on` says no; calls `signed_in` for each signature with the microseconds it took. */
	void (*run)(const struct work *);
};

extern const struct way pkcs11_way, native_way;

/* times.c */
uint64_t microseconds(void);
void sort_times(uint32_t *times, size_t count);

/* The program's own. */
bool may_go_on(void);
void signed_in(uint64_t taken);
_Noreturn void fail(const char *what);
