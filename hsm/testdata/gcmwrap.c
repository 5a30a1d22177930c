// A PKCS#11 module that passes every call to MODULE and wraps with AES-GCM, which
// no module does that can be had for tests. It is a stand-in of the right shape,
// not GCM: it takes the parameters of GCM only as they must be, and makes of a key
// the 48 bytes that GCM would, which unwrap only with the same IV and additional
// data. Inside is the AES-KEY-WRAP of MODULE, masked by the IV, and a checksum in
// the place of the tag.
#include <dlfcn.h>
#include <stdint.h>
#include <string.h>

typedef unsigned long word;
typedef word call(word, word, word, word, word, word, word, word);

enum { FUNCTIONS = 68, MECHANISM_INFO = 8, WRAP_KEY = 60, UNWRAP_KEY = 61 };

#define AES_KEY_WRAP 0x2109UL
#define AES_GCM 0x1087UL
#define WRAPS 0x60000UL // CKF_WRAP, CKF_UNWRAP

#define MECHANISM_PARAM_INVALID 0x71UL
#define ENCRYPTED_DATA_INVALID 0x40UL
#define BUFFER_TOO_SMALL 0x150UL

struct mechanism { word id; void *parameter; word len; };
struct gcm { uint8_t *iv; word iv_len, iv_bits; uint8_t *aad; word aad_len, tag_bits; };
struct info { word min, max, flags; };
struct list { unsigned char version[2]; call *f[FUNCTIONS]; };

static struct list *real, ours;

static uint64_t sum(uint64_t h, const uint8_t *b, word n) // FNV-1a
{
	for (word i = 0; i < n; i++)
		h = (h ^ b[i]) * 0x100000001b3;
	return h;
}

static void mask(const struct gcm *p, uint8_t *b, word n)
{
	uint64_t h = sum(0xcbf29ce484222325, p->iv, p->iv_len);
	for (word i = 0; i < n; i++) {
		h = sum(h, (uint8_t *)&i, 1);
		b[i] ^= h >> 56;
	}
}

static uint64_t tag(const struct gcm *p, const uint8_t *b, word n)
{
	return sum(sum(sum(0xcbf29ce484222325, p->iv, p->iv_len), p->aad, p->aad_len), b, n);
}

static int good(const struct mechanism *m)
{
	const struct gcm *p = m->parameter;
	return m->len == sizeof *p && p->iv_len == 12 && p->iv_bits == 96 && p->tag_bits == 128;
}

static word mechanism_info(word slot, word id, word info, word d, word e, word f, word g, word h)
{
	word rv = real->f[MECHANISM_INFO](slot, id, info, d, e, f, g, h);
	if (rv == 0 && id == AES_GCM)
		((struct info *)info)->flags |= WRAPS;
	return rv;
}

static word wrap_key(word session, word mechanism, word kek, word key, word out, word len, word g, word h)
{
	struct mechanism *m = (struct mechanism *)mechanism, kw = {AES_KEY_WRAP, 0, 0};
	word n = 40, *size = (word *)len;
	if (m->id != AES_GCM)
		return real->f[WRAP_KEY](session, mechanism, kek, key, out, len, g, h);
	if (!good(m))
		return MECHANISM_PARAM_INVALID;
	if (*size < 48)
		return BUFFER_TOO_SMALL;
	word rv = real->f[WRAP_KEY](session, (word)&kw, kek, key, out, (word)&n, g, h);
	if (rv != 0)
		return rv;
	mask(m->parameter, (uint8_t *)out, 40);
	uint64_t t = tag(m->parameter, (uint8_t *)out, 40);
	memcpy((uint8_t *)out + 40, &t, 8);
	*size = 48;
	return 0;
}

static word unwrap_key(word session, word mechanism, word kek, word in, word len, word template, word count, word object)
{
	struct mechanism *m = (struct mechanism *)mechanism, kw = {AES_KEY_WRAP, 0, 0};
	uint8_t b[48];
	uint64_t t;
	if (m->id != AES_GCM)
		return real->f[UNWRAP_KEY](session, mechanism, kek, in, len, template, count, object);
	if (!good(m))
		return MECHANISM_PARAM_INVALID;
	if (len != sizeof b)
		return ENCRYPTED_DATA_INVALID;
	memcpy(b, (void *)in, sizeof b);
	t = tag(m->parameter, b, 40);
	if (memcmp(b + 40, &t, 8) != 0)
		return ENCRYPTED_DATA_INVALID;
	mask(m->parameter, b, 40);
	return real->f[UNWRAP_KEY](session, (word)&kw, kek, (word)b, 40, template, count, object);
}

word C_GetFunctionList(struct list **out)
{
	void *library = dlopen(MODULE, RTLD_NOW | RTLD_LOCAL);
	word (*get)(struct list **) = library ? (word (*)(struct list **))dlsym(library, "C_GetFunctionList") : 0;
	if (!get || get(&real) != 0)
		return 5; // CKR_GENERAL_ERROR
	ours = *real;
	ours.f[MECHANISM_INFO] = mechanism_info;
	ours.f[WRAP_KEY] = wrap_key;
	ours.f[UNWRAP_KEY] = unwrap_key;
	*out = &ours;
	return 0;
}
