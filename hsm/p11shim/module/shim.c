// A PKCS#11 module that passes every call to another one and does as a control
// file says: counts calls, answers with a code, makes calls slow or hang,
// before or after the real call. Package p11shim, in the directory above, builds it
// and writes the control file.
//
//   SHIM_MODULE   path of the real module
//   SHIM_CONTROL  path of the control file: one struct entry a function, in the
//                 order of CK_FUNCTION_LIST (PKCS#11 v2.40), mapped, so what a
//                 test writes holds at once
//
// If there is a file of the name of the shim with .of after it, its two lines are
// used in the place of these: one process can have several shims, each a copy.
//
// All arguments of the functions are words, so one function of eight words
// stands for each of them: on the calling conventions of Linux on amd64 and
// arm64 what a callee does not take does no harm.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define FUNCTIONS 68

typedef unsigned long word;
typedef word call(word, word, word, word, word, word, word, word);

struct entry {
	uint64_t calls;  // made, counted here
	uint64_t rv;     // answered instead of the real call
	int64_t times;   // how many times; negative: for ever
	uint64_t skip;   // calls that pass before the first time
	uint64_t sleep;  // milliseconds before each call; can be ended by writing 0
	uint64_t inside; // calls that are in the function now
	uint64_t after;  // not 0: make the real call, then answer rv
	uint64_t abort;  // not 0: the process ends here; with 2 in it only where an answer
	                 // is due; with 4 in it by a bad address
	uint64_t flip;   // not 0: make the real call, and if it is CKR_OK flip a bit
	                 // of the first byte that the argument of this number (from 1)
	                 // points to
	uint64_t hold;   // not 0: a call that begins waits until freed is as much
	uint64_t freed;
	uint64_t offset; // of C_GetSlotList: added to the number of each slot
	uint64_t hide;   // of C_GetMechanismList: the mechanism that it leaves out
	uint64_t every;  // not 0: only one call of so many sleeps, or is answered
	uint64_t only;   // not 0: only calls whose first argument is one less
};

struct list {
	unsigned char version[2];
	call *f[FUNCTIONS];
};

static struct list *real, ours;
static struct entry *control;

static void wait_for(struct entry *e, uint64_t call)
{
	struct timespec ms = {0, 1000000};
	uint64_t every = __atomic_load_n(&e->every, __ATOMIC_SEQ_CST);
	if (every != 0 && call % every != 0)
		return;
	for (uint64_t slept = 0; slept < __atomic_load_n(&e->sleep, __ATOMIC_SEQ_CST); slept++)
		nanosleep(&ms, NULL);
	uint64_t hold = __atomic_load_n(&e->hold, __ATOMIC_SEQ_CST);
	while (__atomic_load_n(&e->freed, __ATOMIC_SEQ_CST) < hold)
		nanosleep(&ms, NULL);
}

// due reports whether this call is one to answer, and counts it off.
static int due(struct entry *e, uint64_t call)
{
	uint64_t every = __atomic_load_n(&e->every, __ATOMIC_SEQ_CST);
	if (every != 0 && call % every != 0)
		return 0;
	uint64_t skip = __atomic_load_n(&e->skip, __ATOMIC_SEQ_CST);
	while (skip > 0) {
		if (__atomic_compare_exchange_n(&e->skip, &skip, skip - 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
			return 0;
	}
	int64_t times = __atomic_load_n(&e->times, __ATOMIC_SEQ_CST);
	while (times > 0) {
		if (__atomic_compare_exchange_n(&e->times, &times, times - 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
			return 1;
	}
	return times < 0;
}

// meets reports whether the fault is for calls with this first argument.
static int meets(struct entry *e, word a)
{
	uint64_t only = __atomic_load_n(&e->only, __ATOMIC_SEQ_CST);
	return only == 0 || a == only - 1;
}

enum { GET_SLOT_LIST = 4 };

// takes_slot reports whether the first argument of a function is a slot's number:
// C_GetSlotInfo to C_InitToken, C_OpenSession, C_CloseAllSessions.
static int takes_slot(int n) { return (n > GET_SLOT_LIST && n <= 9) || n == 12 || n == 14; }

// real_call makes a call of the real module, which does not know of the offset.
static word real_call(int n, word a, word b, word c, word d, word e, word f, word g, word h)
{
	word offset = control[GET_SLOT_LIST].offset;
	word rv = real->f[n](takes_slot(n) ? a - offset : a, b, c, d, e, f, g, h);
	if (n == GET_SLOT_LIST && rv == 0 && b)
		for (word i = 0; i < *(word *)c; i++)
			((word *)b)[i] += offset;
	return rv;
}

// leave_out takes a mechanism out of a list.
static void leave_out(word mechanism, word *list, word *count)
{
	word kept = 0;
	for (word i = 0; list && i < *count; i++)
		if (list[i] != mechanism)
			list[kept++] = list[i];
	if (list)
		*count = kept;
}

static word pass(int n, word a, word b, word c, word d, word e, word f, word g, word h)
{
	struct entry *x = &control[n];
	word rv;
	uint64_t call = __atomic_add_fetch(&x->calls, 1, __ATOMIC_SEQ_CST);
	__atomic_add_fetch(&x->inside, 1, __ATOMIC_SEQ_CST);
	int met = meets(x, a);
	if (met && x->abort && (!(x->abort & 2) || due(x, call))) {
		if (x->abort & 4)
			*(volatile int *)(x->abort) = 0; // 5 or 7
		abort();
	}
	if (met)
		wait_for(x, call);
	word before = x->rv;
	if (!met || !due(x, call)) {
		rv = real_call(n, a, b, c, d, e, f, g, h);
		if (x->hide && rv == 0)
			leave_out(x->hide, (word *)b, (word *)c);
	} else if (x->flip) {
		word args[8] = {a, b, c, d, e, f, g, h};
		unsigned char *out = (unsigned char *)args[x->flip - 1];
		rv = real_call(n, a, b, c, d, e, f, g, h);
		if (rv == 0 && out)
			out[0] ^= 1;
	} else {
		if (x->after)
			real_call(n, a, b, c, d, e, f, g, h);
		rv = x->rv;
		if (!rv)
			rv = before; // the fault has ended since: this is no CKR_OK for a call that was not made
	}
	__atomic_sub_fetch(&x->inside, 1, __ATOMIC_SEQ_CST);
	return rv;
}

#define F(n) \
	static word f##n(word a, word b, word c, word d, word e, word f, word g, word h) { return pass(n, a, b, c, d, e, f, g, h); }
F(0) F(1) F(2) F(3) F(4) F(5) F(6) F(7) F(8) F(9)
F(10) F(11) F(12) F(13) F(14) F(15) F(16) F(17) F(18) F(19)
F(20) F(21) F(22) F(23) F(24) F(25) F(26) F(27) F(28) F(29)
F(30) F(31) F(32) F(33) F(34) F(35) F(36) F(37) F(38) F(39)
F(40) F(41) F(42) F(43) F(44) F(45) F(46) F(47) F(48) F(49)
F(50) F(51) F(52) F(53) F(54) F(55) F(56) F(57) F(58) F(59)
F(60) F(61) F(62) F(63) F(64) F(65) F(66) F(67)

static call *const all[FUNCTIONS] = {
	f0, f1, f2, f3, f4, f5, f6, f7, f8, f9,
	f10, f11, f12, f13, f14, f15, f16, f17, f18, f19,
	f20, f21, f22, f23, f24, f25, f26, f27, f28, f29,
	f30, f31, f32, f33, f34, f35, f36, f37, f38, f39,
	f40, f41, f42, f43, f44, f45, f46, f47, f48, f49,
	f50, f51, f52, f53, f54, f55, f56, f57, f58, f59,
	f60, f61, f62, f63, f64, f65, f66, f67,
};

// whose finds the paths of the real module and of the control file.
static void whose(char **module, char **path)
{
	static char lines[2][4096];
	char name[4096];
	Dl_info info;
	FILE *f;

	*module = getenv("SHIM_MODULE");
	*path = getenv("SHIM_CONTROL");
	if (!dladdr(&ours, &info) || snprintf(name, sizeof name, "%s.of", info.dli_fname) >= (int)sizeof name || !(f = fopen(name, "r")))
		return;
	for (int i = 0; i < 2; i++) {
		if (!fgets(lines[i], sizeof lines[i], f))
			lines[i][0] = 0;
		lines[i][strcspn(lines[i], "\n")] = 0;
	}
	fclose(f);
	*module = lines[0];
	*path = lines[1];
}

static int prepare(void)
{
	char *module, *path;
	whose(&module, &path);
	void *library = module ? dlopen(module, RTLD_NOW | RTLD_LOCAL) : NULL;
	word (*get)(struct list **) = library ? (word (*)(struct list **))dlsym(library, "C_GetFunctionList") : NULL;
	int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
	if (!get || fd < 0 || get(&real) != 0)
		return 0;
	control = mmap(NULL, FUNCTIONS * sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (control == MAP_FAILED)
		return 0;
	memcpy(ours.version, real->version, sizeof ours.version);
	memcpy(ours.f, all, sizeof ours.f);
	return 1;
}

word C_GetFunctionList(struct list **out)
{
	static int ready;
	if (!ready && !(ready = prepare()))
		return 5; // CKR_GENERAL_ERROR
	*out = &ours;
	return 0;
}
