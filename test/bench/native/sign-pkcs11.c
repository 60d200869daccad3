/* One client of a PKCS #11 module: C_SignInit and C_Sign, one after the other. */
#include "sign-load.h"
#include "pkcs11.h"
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

enum { MAX_SLOTS = 16, MAX_SIGNATURE = 512, PRIVATE_KEY = 3, SERIAL_SESSION = 4, USER = 1 };

static struct ck_function_list *library;
static CK_ULONG session, key;

static bool open_module(const char *path)
{
	void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (module == NULL) fail(dlerror());
	ck_get_function_list get = (ck_get_function_list)dlsym(module, "C_GetFunctionList");
	return get != NULL && get(&library) == 0 && library->initialize(NULL) == 0;
}

static bool find_slot(const char *label, CK_ULONG *slot)
{
	CK_ULONG slots[MAX_SLOTS], count = MAX_SLOTS;
	if (library->get_slot_list(1, slots, &count) != 0) return false;
	for (CK_ULONG i = 0; i < count; i++) {
		struct ck_token_info info;
		*slot = slots[i];
		if (label[0] == '\0') return true;
		if (library->get_token_info(slots[i], &info) == 0 && memcmp(&info, label, strlen(label)) == 0) return true;
	}
	return false;
}

static bool find_key(const char *label)
{
	CK_ULONG class = PRIVATE_KEY, found = 0;
	struct ck_attribute wanted[] = { { CKA_CLASS, &class, sizeof class }, { CKA_LABEL, (void *)label, strlen(label) } };
	return library->find_objects_init(session, wanted, 2) == 0 && library->find_objects(session, &key, 1, &found) == 0 &&
	       library->find_objects_final(session) == 0 && found == 1;
}

static bool prepare(char **arguments, const struct work *work)
{
	CK_ULONG slot;
	if (!open_module(arguments[0]) || !find_slot(arguments[1], &slot)) return false;
	if (library->open_session(slot, SERIAL_SESSION, NULL, NULL, &session) != 0) return false;
	if (library->login(session, USER, (CK_BYTE *)arguments[2], strlen(arguments[2])) != 0) return false;
	return find_key(work->rsa ? "rsa" : "ec");
}

static void expect_ok(const char *call, CK_RV rv)
{
	if (rv == 0) return;
	char text[64];
	snprintf(text, sizeof text, "%s: 0x%lx", call, rv);
	fail(text);
}

static void run(const struct work *work)
{
	struct ck_mechanism mechanism = { work->mechanism, NULL, 0 };
	CK_BYTE signature[MAX_SIGNATURE];
	do {
		CK_ULONG length = sizeof signature;
		uint64_t before = microseconds();
		expect_ok("C_SignInit", library->sign_init(session, &mechanism, key));
		expect_ok("C_Sign", library->sign(session, work->data, work->length, signature, &length));
		signed_in(microseconds() - before);
	} while (may_go_on());
}

const struct way pkcs11_way = { prepare, run };
