// sources: seal/unsealer/request.c
// flags: -ltss2-mu
#include "driver.h"

#include "../../../seal/unsealer/request.h"

#include <stdlib.h>

int fuzz_one(const uint8_t *bytes, size_t length) {
    static struct request request;
    const char *field = parse_request(bytes, length, &request);
    if (field == NULL && (request.sinks < 1 || request.sinks > SINKS_MAX)) abort();
    if (field == NULL && request.object.publicArea.authPolicy.size != TPM2_SHA256_DIGEST_SIZE) abort();
    return field != NULL;
}
