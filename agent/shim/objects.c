#include "shim.h"

long read_attribute(const struct shim *shim, CK_ULONG object, CK_ULONG type, void *value, size_t size) {
  struct ck_attribute wanted = {.type = type, .value = value, .length = size};
  if (shim->library.get_attribute_value(shim->session, object, &wanted, 1) != CKR_OK) return -1;
  return wanted.length <= size ? (long)wanted.length : -1;
}

CK_RV find_objects(const struct shim *shim, struct ck_attribute *wanted, CK_ULONG terms, CK_ULONG *found, CK_ULONG max,
                   CK_ULONG *count) {
  *count = 0;
  CK_RV rv = shim->library.find_objects_init(shim->session, wanted, terms);
  if (rv != CKR_OK) return rv;
  for (;;) {
    CK_ULONG one, got = 0;
    rv = shim->library.find_objects(shim->session, &one, 1, &got);
    if (rv != CKR_OK || got == 0) break;
    if (got != 1 || *count == max) {
      rv = CKR_BUFFER_TOO_SMALL;
      break;
    }
    found[(*count)++] = one;
  }
  CK_RV closed = shim->library.find_objects_final(shim->session);
  return rv != CKR_OK ? rv : closed;
}
