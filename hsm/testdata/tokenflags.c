// A PKCS#11 module that passes every call to another one, and sets flags in what
// C_GetTokenInfo answers: SoftHSM never says that one wrong PIN more locks it.
//
//   FLAGS_MODULE  path of the real module
//   FLAGS_FILE    file with the flags to set, in hexadecimal, read at each call
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FUNCTIONS 68    // in CK_FUNCTION_LIST, PKCS#11 v2.40
#define GET_TOKEN_INFO 6 // its place there
#define FLAGS_AT 96     // in CK_TOKEN_INFO, after label, maker, model and serial number

typedef unsigned long word;

struct list {
	unsigned char version[2];
	void *f[FUNCTIONS];
};

static struct list *real, ours;

static word get_token_info(word slot, char *info)
{
	word rv = ((word(*)(word, char *))real->f[GET_TOKEN_INFO])(slot, info), flags = 0, set = 0;
	FILE *file = fopen(getenv("FLAGS_FILE"), "r");

	if (file == NULL)
		return rv;
	if (rv == 0 && fscanf(file, "%lx", &set) == 1) {
		memcpy(&flags, info + FLAGS_AT, sizeof flags);
		flags |= set;
		memcpy(info + FLAGS_AT, &flags, sizeof flags);
	}
	fclose(file);
	return rv;
}

word C_GetFunctionList(struct list **out)
{
	void *library = dlopen(getenv("FLAGS_MODULE"), RTLD_NOW | RTLD_LOCAL);
	word (*get)(struct list **) = library ? (word(*)(struct list **))dlsym(library, "C_GetFunctionList") : NULL;

	if (get == NULL || get(&real) != 0)
		return 5; // CKR_GENERAL_ERROR
	ours = *real;
	ours.f[GET_TOKEN_INFO] = (void *)get_token_info;
	*out = &ours;
	return 0;
}
