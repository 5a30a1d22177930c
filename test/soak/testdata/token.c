// A PKCS#11 module for one token of SoftHSM, of which a process can have several:
// shim.c, which counts calls and makes them fail, with the token's own settings in
// the place of those of the environment. Compile with
//
//   -DMODULE="..."    the path of a copy of libsofthsm2.so that no other token has
//   -DCONTROL="..."   the path of the shim's control file
//   -DCONF="..."      the path of SoftHSM's configuration, which it reads from
//                     SOFTHSM2_CONF in C_Initialize
//   -DLOCK="..."      the path of a file that all these modules have
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>

static char *setting(const char *name)
{
	return strcmp(name, "SHIM_MODULE") == 0 ? MODULE : CONTROL;
}

#define getenv setting
#define C_GetFunctionList shim_function_list
#include "../../../hsm/testdata/shim.c"
#undef C_GetFunctionList

// One at a time, as the environment is that of the process.
static word initialize(word a, word b, word c, word d, word e, word f, word g, word h)
{
	int lock = open(LOCK, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (lock < 0 || flock(lock, LOCK_EX) != 0 || setenv("SOFTHSM2_CONF", CONF, 1) != 0)
		return 5; // CKR_GENERAL_ERROR
	word rv = f0(a, b, c, d, e, f, g, h);
	close(lock);
	return rv;
}

word C_GetFunctionList(struct list **out)
{
	word rv = shim_function_list(out);
	if (rv == 0)
		(*out)->f[0] = initialize;
	return rv;
}
