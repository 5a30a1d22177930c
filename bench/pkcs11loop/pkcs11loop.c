/*
 * A bare loop of AES-GCM encryptions in a PKCS#11 token, with nothing around it:
 * what any program could get out of the module. Each thread has a session, and
 * calls C_EncryptInit and C_Encrypt with a key that all share.
 *
 *   pkcs11loop MODULE TOKEN PIN_FILE SESSIONS MILLISECONDS PLAINTEXT_BYTES AD_BYTES
 *
 * It prints the calls of C_Encrypt, the milliseconds that they took, and the
 * milliseconds of CPU time that the process used meanwhile. It makes its key as
 * a session object, which is gone when it ends.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <time.h>

#include "cryptoki.h"

#define CKF_SERIAL_SESSION 4UL
#define CKF_OS_LOCKING_OK 2UL
#define CKU_USER 1UL
#define CKM_AES_KEY_GEN 0x1080UL
#define CKM_AES_GCM 0x1087UL
#define CKA_TOKEN 0x001UL
#define CKA_SENSITIVE 0x103UL
#define CKA_ENCRYPT 0x104UL
#define CKA_VALUE_LEN 0x161UL
#define CKA_EXTRACTABLE 0x162UL

#define IV 12
#define TAG 16
#define MOST 4096

/* PKCS#11 v2.40, 3.2 and 4.2. */
struct token_info {
	ck_byte label[32];
	ck_byte rest[512];
};

struct initialize_args {
	void *mutexes[4];
	ck_ulong flags;
	void *reserved;
};

typedef ck_ulong initialize(struct initialize_args *);
typedef ck_ulong get_slots(ck_byte, ck_ulong *, ck_ulong *);
typedef ck_ulong get_token(ck_ulong, struct token_info *);
typedef ck_ulong open_session(ck_ulong, ck_ulong, void *, void *, ck_ulong *);
typedef ck_ulong generate_key(ck_ulong, struct ck_mechanism *, struct ck_attribute *, ck_ulong, ck_ulong *);

static struct ck_functions *f;
static ck_ulong slot, key;
static size_t plaintext_size, ad_size;
static int stop;
static pthread_barrier_t start;

static void fail(const char *what, ck_ulong code)
{
	fprintf(stderr, "pkcs11loop: %s: 0x%lx\n", what, code);
	exit(1);
}

static void must(const char *what, ck_ulong rv)
{
	if (rv != 0)
		fail(what, rv);
}

static void load(const char *path)
{
	ck_ulong (*get)(struct ck_functions **);
	void *module = dlopen(path, RTLD_NOW);

	if (!module || !(get = (ck_ulong(*)(struct ck_functions **))dlsym(module, "C_GetFunctionList")))
		fail("no module", 0);
	must("C_GetFunctionList", get(&f));
	struct initialize_args args = {.flags = CKF_OS_LOCKING_OK};
	must("C_Initialize", ((initialize *)f->initialize)(&args));
}

static void find_slot(const char *label)
{
	ck_ulong slots[64], n = 64;
	struct token_info info;

	must("C_GetSlotList", ((get_slots *)f->slots[0])(1, slots, &n));
	for (ck_ulong i = 0; i < n; i++) {
		size_t length = strlen(label);
		must("C_GetTokenInfo", ((get_token *)f->slots[2])(slots[i], &info));
		if (length <= 32 && !memcmp(info.label, label, length) && (length == 32 || info.label[length] == ' ')) {
			slot = slots[i];
			return;
		}
	}
	fail("no such token", 0);
}

static ck_ulong session(void)
{
	ck_ulong s;
	must("C_OpenSession", ((open_session *)f->sessions[0])(slot, CKF_SERIAL_SESSION, NULL, NULL, &s));
	return s;
}

static void login(ck_ulong s, const char *path)
{
	ck_byte pin[256];
	FILE *file = fopen(path, "r");
	size_t n;

	if (!file)
		fail("no PIN file", 0);
	n = fread(pin, 1, sizeof pin, file);
	fclose(file);
	while (n > 0 && pin[n - 1] == '\n')
		n--;
	must("C_Login", f->login(s, CKU_USER, pin, n));
	explicit_bzero(pin, sizeof pin);
}

static void make_key(ck_ulong s)
{
	ck_byte yes = 1, no = 0;
	ck_ulong length = 32;
	struct ck_mechanism mechanism = {CKM_AES_KEY_GEN, NULL, 0};
	struct ck_attribute template[] = {
		{CKA_TOKEN, &no, 1},     {CKA_SENSITIVE, &yes, 1},           {CKA_EXTRACTABLE, &no, 1},
		{CKA_ENCRYPT, &yes, 1}, {CKA_VALUE_LEN, &length, sizeof length},
	};
	/* C_GenerateKey stands after C_SignInit and C_Sign, which end ck_functions. */
	generate_key *make = (generate_key *)((void **)(&f->sign + 1))[14];
	must("C_GenerateKey", make(s, &mechanism, template, sizeof template / sizeof *template, &key));
}

static void *work(void *out)
{
	ck_byte iv[IV], ad[MOST] = {0}, in[MOST] = {0}, sealed[MOST + TAG];
	struct ck_gcm_params params = {iv, IV, IV * 8, ad, ad_size, TAG * 8};
	struct ck_mechanism mechanism = {CKM_AES_GCM, &params, sizeof params};
	ck_ulong s = session(), calls = 0;

	pthread_barrier_wait(&start);
	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
		ck_ulong n = sizeof sealed;
		if (getrandom(iv, IV, 0) != IV)
			fail("getrandom", 0);
		must("C_EncryptInit", f->encrypt_init(s, &mechanism, key));
		must("C_Encrypt", f->encrypt(s, in, plaintext_size, sealed, &n));
		calls++;
	}
	*(ck_ulong *)out = calls;
	return NULL;
}

static double now(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

int main(int argc, char **argv)
{
	if (argc != 8) {
		fprintf(stderr, "usage: pkcs11loop MODULE TOKEN PIN_FILE SESSIONS MILLISECONDS PLAINTEXT_BYTES AD_BYTES\n");
		return 2;
	}
	int threads = atoi(argv[4]), ms = atoi(argv[5]);
	plaintext_size = strtoul(argv[6], NULL, 10);
	ad_size = strtoul(argv[7], NULL, 10);
	if (threads < 1 || threads > 1024 || ms < 1 || plaintext_size > MOST || ad_size > MOST)
		fail("an argument is out of range", 0);
	load(argv[1]);
	find_slot(argv[2]);
	ck_ulong anchor = session(), counts[1024] = {0}, all = 0;
	login(anchor, argv[3]);
	make_key(anchor);

	pthread_t thread[1024];
	pthread_barrier_init(&start, NULL, threads + 1);
	for (int i = 0; i < threads; i++)
		if (pthread_create(&thread[i], NULL, work, &counts[i]) != 0)
			fail("pthread_create", 0);
	pthread_barrier_wait(&start);
	double begin = now(CLOCK_MONOTONIC), cpu = now(CLOCK_PROCESS_CPUTIME_ID);
	nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000L}, NULL);
	__atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
	for (int i = 0; i < threads; i++) {
		pthread_join(thread[i], NULL);
		all += counts[i];
	}
	printf("%lu %.3f %.3f\n", all, now(CLOCK_MONOTONIC) - begin, now(CLOCK_PROCESS_CPUTIME_ID) - cpu);
	return 0;
}
