/* OpenSSL of this process, which libtss2 uses too. */
#ifndef IRONCLAW_UNSEALER_OPENSSL_H
#define IRONCLAW_UNSEALER_OPENSSL_H

/*
 * Takes no configuration, whose providers would be loaded beside the secret, and has everything looked up and seeded now that is
 * done at its first use: 3 ms, of which one that waits for its request has plenty. 0 or -1.
 */
int open_openssl(void);

#endif
