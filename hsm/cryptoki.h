/*
 * The part of PKCS#11 v2.40 that this package calls by itself. Everything else
 * goes through github.com/miekg/pkcs11.
 *
 * Types and the order of the function list: PKCS#11 v2.40 base, 3 and 5.4.
 */
#ifndef KEYGATE_CRYPTOKI_H
#define KEYGATE_CRYPTOKI_H

typedef unsigned char ck_byte;
typedef unsigned long ck_ulong;

struct ck_attribute {
	ck_ulong type;
	void *value;
	ck_ulong value_len;
};

struct ck_mechanism {
	ck_ulong mechanism;
	void *parameter;
	ck_ulong parameter_len;
};

/* CK_GCM_PARAMS with ulIvBits, as in the header files of v2.40 errata 01. */
struct ck_gcm_params {
	ck_byte *iv;
	ck_ulong iv_len;
	ck_ulong iv_bits;
	ck_byte *aad;
	ck_ulong aad_len;
	ck_ulong tag_bits;
};

typedef ck_ulong ck_login(ck_ulong, ck_ulong, ck_byte *, ck_ulong);
typedef ck_ulong ck_create(ck_ulong, struct ck_attribute *, ck_ulong, ck_ulong *);
typedef ck_ulong ck_get(ck_ulong, ck_ulong, struct ck_attribute *, ck_ulong);
typedef ck_ulong ck_begin(ck_ulong, struct ck_mechanism *, ck_ulong);
typedef ck_ulong ck_run(ck_ulong, ck_byte *, ck_ulong, ck_byte *, ck_ulong *);

typedef ck_ulong ck_wrap(ck_ulong, struct ck_mechanism *, ck_ulong, ck_ulong, ck_byte *, ck_ulong *);

struct ck_functions {
	ck_byte version[2];
	void *initialize, *finalize, *get_info, *get_function_list;
	void *slots[5];    /* C_GetSlotList ... C_GetMechanismInfo */
	void *tokens[3];   /* C_InitToken, C_InitPIN, C_SetPIN */
	void *sessions[6]; /* C_OpenSession ... C_SetOperationState */
	ck_login *login;
	void *logout;
	ck_create *create_object;
	void *copy_object, *destroy_object, *get_object_size;
	ck_get *get_attribute_value;
	void *set_attribute_value;
	void *find[3]; /* C_FindObjectsInit, C_FindObjects, C_FindObjectsFinal */
	ck_begin *encrypt_init;
	ck_run *encrypt;
	void *encrypt_update, *encrypt_final;
	ck_begin *decrypt_init;
	ck_run *decrypt;
	void *decrypt_update, *decrypt_final;
	void *digest[5]; /* C_DigestInit ... C_DigestFinal */
	ck_begin *sign_init;
	ck_run *sign;
	void *signs[14]; /* C_SignUpdate ... C_DecryptVerifyUpdate */
	void *generate_key, *generate_key_pair;
	ck_wrap *wrap_key;
	/* and more that is not called */
};

/* What a call answered: rv is the CKR code; begun says that the operation was
 * begun, so that rv is of the second of the two functions; len is the number of
 * bytes in the output, or the new object. */
struct kg_result {
	ck_ulong rv;
	ck_ulong len;
	int begun;
};

struct ck_functions *kg_load(const char *path, char *why, size_t size);
struct kg_result kg_gcm(struct ck_functions *f, int encrypt, ck_ulong session, ck_ulong key, ck_byte *iv, ck_ulong iv_len,
			ck_byte *aad, ck_ulong aad_len, ck_byte *in, ck_ulong in_len, ck_byte *out, ck_ulong out_len);
struct kg_result kg_hmac(struct ck_functions *f, ck_ulong session, ck_ulong key, ck_byte *in, ck_ulong in_len, ck_byte *out,
			 ck_ulong out_len);
struct kg_result kg_import(struct ck_functions *f, ck_ulong session, int aes, ck_byte *key, ck_ulong key_len, ck_byte *id,
			   ck_ulong id_len, ck_byte *label, ck_ulong label_len, int copyable);
struct kg_result kg_wrap(struct ck_functions *f, ck_ulong session, ck_ulong mechanism, ck_ulong kek, ck_ulong key, ck_byte *iv,
			 ck_ulong iv_len, ck_byte *aad, ck_ulong aad_len, ck_byte *out, ck_ulong out_len);
ck_ulong kg_login(struct ck_functions *f, ck_ulong session, int officer, ck_byte *pin, ck_ulong pin_len);
const struct ck_attribute *kg_unwrap_template(int rotatable, ck_ulong *size);
void kg_wipe_env(const char *name);

#endif
