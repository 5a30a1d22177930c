#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cryptoki.h"

#define CKU_SO 0UL
#define CKU_USER 1UL

#define CKO_SECRET_KEY 4UL
#define CKK_GENERIC_SECRET 0x10UL
#define CKK_AES 0x1FUL

#define CKA_CLASS 0x000UL
#define CKA_TOKEN 0x001UL
#define CKA_PRIVATE 0x002UL
#define CKA_LABEL 0x003UL
#define CKA_VALUE 0x011UL
#define CKA_KEY_TYPE 0x100UL
#define CKA_SENSITIVE 0x103UL
#define CKA_ID 0x102UL
#define CKA_ENCRYPT 0x104UL
#define CKA_DECRYPT 0x105UL
#define CKA_WRAP 0x106UL
#define CKA_UNWRAP 0x107UL
#define CKA_SIGN 0x108UL
#define CKA_VERIFY 0x10AUL
#define CKA_DERIVE 0x10CUL
#define CKA_EXTRACTABLE 0x162UL
#define CKA_MODIFIABLE 0x170UL
#define CKA_COPYABLE 0x171UL
#define CKA_WRAP_WITH_TRUSTED 0x210UL

#define CKM_SHA256_HMAC 0x251UL
#define CKM_AES_GCM 0x1087UL

/* kg_load loads a module, which stays loaded, and returns its functions. Without
 * it returns NULL, and in why, of size bytes, the reason. */
struct ck_functions *kg_load(const char *path, char *why, size_t size)
{
	struct ck_functions *f = NULL;
	ck_ulong (*get)(struct ck_functions **);
	void *module = dlopen(path, RTLD_LAZY);
	const char *error;

	if (module == NULL) {
		error = dlerror();
		snprintf(why, size, "%s", error != NULL ? error : "no reason is known");
		return NULL;
	}
	get = (ck_ulong(*)(struct ck_functions **))dlsym(module, "C_GetFunctionList");
	if (get == NULL)
		snprintf(why, size, "it is no PKCS#11 module: it has no C_GetFunctionList");
	else if (get(&f) != 0 || f == NULL)
		snprintf(why, size, "C_GetFunctionList fails");
	else
		return f;
	dlclose(module);
	return NULL;
}

/* kg_gcm encrypts or decrypts with AES-GCM and a tag of 128 bits. */
struct kg_result kg_gcm(struct ck_functions *f, int encrypt, ck_ulong session, ck_ulong key, ck_byte *iv, ck_ulong iv_len,
			ck_byte *aad, ck_ulong aad_len, ck_byte *in, ck_ulong in_len, ck_byte *out, ck_ulong out_len)
{
	struct ck_gcm_params params = {iv, iv_len, iv_len * 8, aad, aad_len, 128};
	struct ck_mechanism mechanism = {CKM_AES_GCM, &params, sizeof params};
	struct kg_result r = {0, out_len, 0};

	r.rv = (encrypt ? f->encrypt_init : f->decrypt_init)(session, &mechanism, key);
	if (r.rv != 0)
		return r;
	r.begun = 1;
	r.rv = (encrypt ? f->encrypt : f->decrypt)(session, in, in_len, out, &r.len);
	return r;
}

/* kg_hmac computes HMAC-SHA-256. */
struct kg_result kg_hmac(struct ck_functions *f, ck_ulong session, ck_ulong key, ck_byte *in, ck_ulong in_len, ck_byte *out,
			 ck_ulong out_len)
{
	struct ck_mechanism mechanism = {CKM_SHA256_HMAC, NULL, 0};
	struct kg_result r = {0, out_len, 0};

	r.rv = f->sign_init(session, &mechanism, key);
	if (r.rv != 0)
		return r;
	r.begun = 1;
	r.rv = f->sign(session, in, in_len, out, &r.len);
	return r;
}

/* kg_wrap wraps a key by another: with an IV by AES-GCM and a tag of 128 bits,
 * without by a mechanism that has no parameter. */
struct kg_result kg_wrap(struct ck_functions *f, ck_ulong session, ck_ulong mechanism, ck_ulong kek, ck_ulong key, ck_byte *iv,
			 ck_ulong iv_len, ck_byte *aad, ck_ulong aad_len, ck_byte *out, ck_ulong out_len)
{
	struct ck_gcm_params params = {iv, iv_len, iv_len * 8, aad, aad_len, 128};
	struct ck_mechanism m = {mechanism, iv_len > 0 ? &params : NULL, iv_len > 0 ? sizeof params : 0};
	struct kg_result r = {0, out_len, 0};

	r.rv = f->wrap_key(session, &m, kek, key, out, &r.len);
	return r;
}

/* kg_import makes an object of the caller's key. Without an id it is a session
 * object that can do nothing but be wrapped and, so that its check can be made,
 * be used. With one it is an object of the token, which is not extractable;
 * copyable says that the token knows CKA_COPYABLE. */
struct kg_result kg_import(struct ck_functions *f, ck_ulong session, int aes, ck_byte *key, ck_ulong key_len, ck_byte *id,
			   ck_ulong id_len, ck_byte *label, ck_ulong label_len, int copyable)
{
	ck_ulong class = CKO_SECRET_KEY, type = aes ? CKK_AES : CKK_GENERIC_SECRET;
	ck_byte yes = 1, no = 0;
	int resident = id_len > 0;
	struct ck_attribute template[] = {
		{CKA_CLASS, &class, sizeof class},
		{CKA_KEY_TYPE, &type, sizeof type},
		{CKA_TOKEN, resident ? &yes : &no, 1},
		{CKA_PRIVATE, &yes, sizeof yes},
		{CKA_SENSITIVE, &yes, sizeof yes},
		{CKA_EXTRACTABLE, resident ? &no : &yes, 1},
		{CKA_ENCRYPT, aes ? &yes : &no, 1},
		{CKA_DECRYPT, aes ? &yes : &no, 1},
		{CKA_SIGN, aes ? &no : &yes, 1},
		{CKA_VALUE, key, key_len},
		/* of an object of the token only */
		{CKA_ID, id, id_len},
		{CKA_LABEL, label, label_len},
		{CKA_VERIFY, &no, sizeof no},
		{CKA_WRAP, &no, sizeof no},
		{CKA_UNWRAP, &no, sizeof no},
		{CKA_DERIVE, &no, sizeof no},
		{CKA_MODIFIABLE, &no, sizeof no},
		{CKA_COPYABLE, &no, sizeof no},
	};
	ck_ulong all = sizeof template / sizeof template[0];
	struct kg_result r = {0, 0, 0};

	r.rv = f->create_object(session, template, resident ? all - !copyable : 10, &r.len);
	return r;
}

/* kg_login logs the user in, or the security officer. */
ck_ulong kg_login(struct ck_functions *f, ck_ulong session, int officer, ck_byte *pin, ck_ulong pin_len)
{
	return f->login(session, officer ? CKU_SO : CKU_USER, pin, pin_len);
}

/* kg_unwrap_template returns the value of the KEK's CKA_UNWRAP_TEMPLATE, which
 * contains pointers and so must not be in memory of Go. */
const struct ck_attribute *kg_unwrap_template(int rotatable, ck_ulong *size)
{
	static ck_byte yes = 1, no = 0;
	static const struct ck_attribute strict[] = {
		{CKA_SENSITIVE, &yes, sizeof yes},
		{CKA_EXTRACTABLE, &no, sizeof no},
	};
	static const struct ck_attribute trusted[] = {
		{CKA_SENSITIVE, &yes, sizeof yes},
		{CKA_WRAP_WITH_TRUSTED, &yes, sizeof yes},
		{CKA_DERIVE, &no, sizeof no},
		{CKA_COPYABLE, &no, sizeof no},
		{CKA_MODIFIABLE, &no, sizeof no},
	};

	*size = rotatable ? sizeof trusted : sizeof strict;
	return rotatable ? trusted : strict;
}

/* kg_wipe_env overwrites the value of a variable where it is, which for one
 * that the process was started with is what /proc/self/environ shows. */
void kg_wipe_env(const char *name)
{
	char *value = getenv(name);

	if (value != NULL)
		explicit_bzero(value, strlen(value));
}
