package hsm

import (
	"fmt"
	"strings"

	"github.com/miekg/pkcs11"
)

// What the doctor and a dry run call numbers of PKCS#11 v2.40. A number that has no
// name here is shown in hexadecimal, as in the header files.

func mechanismName(id uint) string { return nameOf(mechanismNames, "CKM", id) }

func attributeName(id uint) string { return nameOf(attributeNames, "CKA", id) }

func nameOf(names map[uint]string, kind string, id uint) string {
	if name := names[id]; name != "" {
		return name
	}
	return fmt.Sprintf("%s 0x%08X", kind, id)
}

// flagNames returns the names of the flags that are set, without CKF_. Those that
// have none are one, in hexadecimal.
func flagNames(flags uint, known []flagName) []string {
	names := []string{}
	for _, f := range known {
		if flags&f.flag != 0 {
			names = append(names, strings.TrimPrefix(f.name, "CKF_"))
		}
		flags &^= f.flag
	}
	if flags != 0 {
		names = append(names, fmt.Sprintf("0x%X", flags))
	}
	return names
}

type flagName struct {
	flag uint
	name string
}

// CK_TOKEN_INFO, PKCS#11 v2.40 base 3.2.
var tokenFlags = []flagName{
	{pkcs11.CKF_RNG, "CKF_RNG"},
	{pkcs11.CKF_WRITE_PROTECTED, "CKF_WRITE_PROTECTED"},
	{pkcs11.CKF_LOGIN_REQUIRED, "CKF_LOGIN_REQUIRED"},
	{pkcs11.CKF_USER_PIN_INITIALIZED, "CKF_USER_PIN_INITIALIZED"},
	{pkcs11.CKF_RESTORE_KEY_NOT_NEEDED, "CKF_RESTORE_KEY_NOT_NEEDED"},
	{pkcs11.CKF_CLOCK_ON_TOKEN, "CKF_CLOCK_ON_TOKEN"},
	{pkcs11.CKF_PROTECTED_AUTHENTICATION_PATH, "CKF_PROTECTED_AUTHENTICATION_PATH"},
	{pkcs11.CKF_DUAL_CRYPTO_OPERATIONS, "CKF_DUAL_CRYPTO_OPERATIONS"},
	{pkcs11.CKF_TOKEN_INITIALIZED, "CKF_TOKEN_INITIALIZED"},
	{pkcs11.CKF_SECONDARY_AUTHENTICATION, "CKF_SECONDARY_AUTHENTICATION"},
	{pkcs11.CKF_USER_PIN_COUNT_LOW, "CKF_USER_PIN_COUNT_LOW"},
	{pkcs11.CKF_USER_PIN_FINAL_TRY, "CKF_USER_PIN_FINAL_TRY"},
	{pkcs11.CKF_USER_PIN_LOCKED, "CKF_USER_PIN_LOCKED"},
	{pkcs11.CKF_USER_PIN_TO_BE_CHANGED, "CKF_USER_PIN_TO_BE_CHANGED"},
	{pkcs11.CKF_SO_PIN_COUNT_LOW, "CKF_SO_PIN_COUNT_LOW"},
	{pkcs11.CKF_SO_PIN_FINAL_TRY, "CKF_SO_PIN_FINAL_TRY"},
	{pkcs11.CKF_SO_PIN_LOCKED, "CKF_SO_PIN_LOCKED"},
	{pkcs11.CKF_SO_PIN_TO_BE_CHANGED, "CKF_SO_PIN_TO_BE_CHANGED"},
	{pkcs11.CKF_ERROR_STATE, "CKF_ERROR_STATE"},
}

// CK_MECHANISM_INFO, PKCS#11 v2.40 base 3.5.
var mechanismFlags = []flagName{
	{pkcs11.CKF_HW, "CKF_HW"},
	{pkcs11.CKF_ENCRYPT, "CKF_ENCRYPT"},
	{pkcs11.CKF_DECRYPT, "CKF_DECRYPT"},
	{pkcs11.CKF_DIGEST, "CKF_DIGEST"},
	{pkcs11.CKF_SIGN, "CKF_SIGN"},
	{pkcs11.CKF_SIGN_RECOVER, "CKF_SIGN_RECOVER"},
	{pkcs11.CKF_VERIFY, "CKF_VERIFY"},
	{pkcs11.CKF_VERIFY_RECOVER, "CKF_VERIFY_RECOVER"},
	{pkcs11.CKF_GENERATE, "CKF_GENERATE"},
	{pkcs11.CKF_GENERATE_KEY_PAIR, "CKF_GENERATE_KEY_PAIR"},
	{pkcs11.CKF_WRAP, "CKF_WRAP"},
	{pkcs11.CKF_UNWRAP, "CKF_UNWRAP"},
	{pkcs11.CKF_DERIVE, "CKF_DERIVE"},
	{pkcs11.CKF_EC_F_P, "CKF_EC_F_P"},
	{pkcs11.CKF_EC_F_2M, "CKF_EC_F_2M"},
	{pkcs11.CKF_EC_ECPARAMETERS, "CKF_EC_ECPARAMETERS"},
	{pkcs11.CKF_EC_NAMEDCURVE, "CKF_EC_NAMEDCURVE"},
	{pkcs11.CKF_EC_UNCOMPRESS, "CKF_EC_UNCOMPRESS"},
	{pkcs11.CKF_EC_COMPRESS, "CKF_EC_COMPRESS"},
	{pkcs11.CKF_EXTENSION, "CKF_EXTENSION"},
}

var mechanismNames = map[uint]string{
	pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN:     "CKM_RSA_PKCS_KEY_PAIR_GEN",
	pkcs11.CKM_RSA_PKCS:                  "CKM_RSA_PKCS",
	pkcs11.CKM_RSA_X_509:                 "CKM_RSA_X_509",
	pkcs11.CKM_SHA1_RSA_PKCS:             "CKM_SHA1_RSA_PKCS",
	pkcs11.CKM_SHA224_RSA_PKCS:           "CKM_SHA224_RSA_PKCS",
	pkcs11.CKM_SHA256_RSA_PKCS:           "CKM_SHA256_RSA_PKCS",
	pkcs11.CKM_SHA384_RSA_PKCS:           "CKM_SHA384_RSA_PKCS",
	pkcs11.CKM_SHA512_RSA_PKCS:           "CKM_SHA512_RSA_PKCS",
	pkcs11.CKM_RSA_PKCS_OAEP:             "CKM_RSA_PKCS_OAEP",
	pkcs11.CKM_RSA_PKCS_PSS:              "CKM_RSA_PKCS_PSS",
	pkcs11.CKM_SHA1_RSA_PKCS_PSS:         "CKM_SHA1_RSA_PKCS_PSS",
	pkcs11.CKM_SHA224_RSA_PKCS_PSS:       "CKM_SHA224_RSA_PKCS_PSS",
	pkcs11.CKM_SHA256_RSA_PKCS_PSS:       "CKM_SHA256_RSA_PKCS_PSS",
	pkcs11.CKM_SHA384_RSA_PKCS_PSS:       "CKM_SHA384_RSA_PKCS_PSS",
	pkcs11.CKM_SHA512_RSA_PKCS_PSS:       "CKM_SHA512_RSA_PKCS_PSS",
	pkcs11.CKM_RSA_AES_KEY_WRAP:          "CKM_RSA_AES_KEY_WRAP",
	pkcs11.CKM_MD5:                       "CKM_MD5",
	pkcs11.CKM_MD5_HMAC:                  "CKM_MD5_HMAC",
	pkcs11.CKM_MD5_RSA_PKCS:              "CKM_MD5_RSA_PKCS",
	pkcs11.CKM_SHA_1:                     "CKM_SHA_1",
	pkcs11.CKM_SHA_1_HMAC:                "CKM_SHA_1_HMAC",
	pkcs11.CKM_SHA224:                    "CKM_SHA224",
	pkcs11.CKM_SHA224_HMAC:               "CKM_SHA224_HMAC",
	pkcs11.CKM_SHA256:                    "CKM_SHA256",
	pkcs11.CKM_SHA256_HMAC:               "CKM_SHA256_HMAC",
	pkcs11.CKM_SHA384:                    "CKM_SHA384",
	pkcs11.CKM_SHA384_HMAC:               "CKM_SHA384_HMAC",
	pkcs11.CKM_SHA512:                    "CKM_SHA512",
	pkcs11.CKM_SHA512_HMAC:               "CKM_SHA512_HMAC",
	pkcs11.CKM_GENERIC_SECRET_KEY_GEN:    "CKM_GENERIC_SECRET_KEY_GEN",
	pkcs11.CKM_CONCATENATE_BASE_AND_KEY:  "CKM_CONCATENATE_BASE_AND_KEY",
	pkcs11.CKM_CONCATENATE_BASE_AND_DATA: "CKM_CONCATENATE_BASE_AND_DATA",
	pkcs11.CKM_CONCATENATE_DATA_AND_BASE: "CKM_CONCATENATE_DATA_AND_BASE",
	pkcs11.CKM_XOR_BASE_AND_DATA:         "CKM_XOR_BASE_AND_DATA",
	pkcs11.CKM_EC_KEY_PAIR_GEN:           "CKM_EC_KEY_PAIR_GEN",
	ckmAESKeyWrapKWP:                     "CKM_AES_KEY_WRAP_KWP",
	0x1055:                               "CKM_EC_EDWARDS_KEY_PAIR_GEN", // PKCS#11 v3.0
	0x1057:                               "CKM_EDDSA",
	pkcs11.CKM_ECDSA:                     "CKM_ECDSA",
	pkcs11.CKM_ECDSA_SHA1:                "CKM_ECDSA_SHA1",
	pkcs11.CKM_ECDSA_SHA224:              "CKM_ECDSA_SHA224",
	pkcs11.CKM_ECDSA_SHA256:              "CKM_ECDSA_SHA256",
	pkcs11.CKM_ECDSA_SHA384:              "CKM_ECDSA_SHA384",
	pkcs11.CKM_ECDSA_SHA512:              "CKM_ECDSA_SHA512",
	pkcs11.CKM_ECDH1_DERIVE:              "CKM_ECDH1_DERIVE",
	pkcs11.CKM_ECDH1_COFACTOR_DERIVE:     "CKM_ECDH1_COFACTOR_DERIVE",
	pkcs11.CKM_ECDH_AES_KEY_WRAP:         "CKM_ECDH_AES_KEY_WRAP",
	pkcs11.CKM_DSA_PARAMETER_GEN:         "CKM_DSA_PARAMETER_GEN",
	pkcs11.CKM_DSA_KEY_PAIR_GEN:          "CKM_DSA_KEY_PAIR_GEN",
	pkcs11.CKM_DSA:                       "CKM_DSA",
	pkcs11.CKM_DSA_SHA1:                  "CKM_DSA_SHA1",
	pkcs11.CKM_DSA_SHA224:                "CKM_DSA_SHA224",
	pkcs11.CKM_DSA_SHA256:                "CKM_DSA_SHA256",
	pkcs11.CKM_DSA_SHA384:                "CKM_DSA_SHA384",
	pkcs11.CKM_DSA_SHA512:                "CKM_DSA_SHA512",
	pkcs11.CKM_DH_PKCS_PARAMETER_GEN:     "CKM_DH_PKCS_PARAMETER_GEN",
	pkcs11.CKM_DH_PKCS_KEY_PAIR_GEN:      "CKM_DH_PKCS_KEY_PAIR_GEN",
	pkcs11.CKM_DH_PKCS_DERIVE:            "CKM_DH_PKCS_DERIVE",
	pkcs11.CKM_DES_KEY_GEN:               "CKM_DES_KEY_GEN",
	pkcs11.CKM_DES_ECB:                   "CKM_DES_ECB",
	pkcs11.CKM_DES_CBC:                   "CKM_DES_CBC",
	pkcs11.CKM_DES_CBC_PAD:               "CKM_DES_CBC_PAD",
	pkcs11.CKM_DES_ECB_ENCRYPT_DATA:      "CKM_DES_ECB_ENCRYPT_DATA",
	pkcs11.CKM_DES_CBC_ENCRYPT_DATA:      "CKM_DES_CBC_ENCRYPT_DATA",
	pkcs11.CKM_DES2_KEY_GEN:              "CKM_DES2_KEY_GEN",
	pkcs11.CKM_DES3_KEY_GEN:              "CKM_DES3_KEY_GEN",
	pkcs11.CKM_DES3_ECB:                  "CKM_DES3_ECB",
	pkcs11.CKM_DES3_CBC:                  "CKM_DES3_CBC",
	pkcs11.CKM_DES3_CBC_PAD:              "CKM_DES3_CBC_PAD",
	pkcs11.CKM_DES3_CMAC:                 "CKM_DES3_CMAC",
	pkcs11.CKM_DES3_ECB_ENCRYPT_DATA:     "CKM_DES3_ECB_ENCRYPT_DATA",
	pkcs11.CKM_DES3_CBC_ENCRYPT_DATA:     "CKM_DES3_CBC_ENCRYPT_DATA",
	pkcs11.CKM_AES_KEY_GEN:               "CKM_AES_KEY_GEN",
	pkcs11.CKM_AES_ECB:                   "CKM_AES_ECB",
	pkcs11.CKM_AES_CBC:                   "CKM_AES_CBC",
	pkcs11.CKM_AES_CBC_PAD:               "CKM_AES_CBC_PAD",
	pkcs11.CKM_AES_CTR:                   "CKM_AES_CTR",
	pkcs11.CKM_AES_GCM:                   "CKM_AES_GCM",
	pkcs11.CKM_AES_CCM:                   "CKM_AES_CCM",
	pkcs11.CKM_AES_CTS:                   "CKM_AES_CTS",
	pkcs11.CKM_AES_MAC:                   "CKM_AES_MAC",
	pkcs11.CKM_AES_CMAC:                  "CKM_AES_CMAC",
	pkcs11.CKM_AES_GMAC:                  "CKM_AES_GMAC",
	pkcs11.CKM_AES_OFB:                   "CKM_AES_OFB",
	pkcs11.CKM_AES_CFB8:                  "CKM_AES_CFB8",
	pkcs11.CKM_AES_CFB128:                "CKM_AES_CFB128",
	pkcs11.CKM_AES_KEY_WRAP:              "CKM_AES_KEY_WRAP",
	pkcs11.CKM_AES_KEY_WRAP_PAD:          "CKM_AES_KEY_WRAP_PAD",
	pkcs11.CKM_AES_ECB_ENCRYPT_DATA:      "CKM_AES_ECB_ENCRYPT_DATA",
	pkcs11.CKM_AES_CBC_ENCRYPT_DATA:      "CKM_AES_CBC_ENCRYPT_DATA",
}

var attributeNames = map[uint]string{
	pkcs11.CKA_CLASS:              "CKA_CLASS",
	pkcs11.CKA_KEY_TYPE:           "CKA_KEY_TYPE",
	pkcs11.CKA_VALUE_LEN:          "CKA_VALUE_LEN",
	pkcs11.CKA_LABEL:              "CKA_LABEL",
	pkcs11.CKA_ID:                 "CKA_ID",
	pkcs11.CKA_TOKEN:              "CKA_TOKEN",
	pkcs11.CKA_PRIVATE:            "CKA_PRIVATE",
	pkcs11.CKA_SENSITIVE:          "CKA_SENSITIVE",
	pkcs11.CKA_EXTRACTABLE:        "CKA_EXTRACTABLE",
	pkcs11.CKA_MODIFIABLE:         "CKA_MODIFIABLE",
	pkcs11.CKA_COPYABLE:           "CKA_COPYABLE",
	pkcs11.CKA_DESTROYABLE:        "CKA_DESTROYABLE",
	pkcs11.CKA_ENCRYPT:            "CKA_ENCRYPT",
	pkcs11.CKA_DECRYPT:            "CKA_DECRYPT",
	pkcs11.CKA_SIGN:               "CKA_SIGN",
	pkcs11.CKA_VERIFY:             "CKA_VERIFY",
	pkcs11.CKA_WRAP:               "CKA_WRAP",
	pkcs11.CKA_UNWRAP:             "CKA_UNWRAP",
	pkcs11.CKA_DERIVE:             "CKA_DERIVE",
	pkcs11.CKA_UNWRAP_TEMPLATE:    "CKA_UNWRAP_TEMPLATE",
	pkcs11.CKA_WRAP_WITH_TRUSTED:  "CKA_WRAP_WITH_TRUSTED",
	pkcs11.CKA_TRUSTED:            "CKA_TRUSTED",
	pkcs11.CKA_ALLOWED_MECHANISMS: "CKA_ALLOWED_MECHANISMS",
	pkcs11.CKA_WRAP_TEMPLATE:      "CKA_WRAP_TEMPLATE",
	pkcs11.CKA_MODULUS_BITS:       "CKA_MODULUS_BITS",
	pkcs11.CKA_PUBLIC_EXPONENT:    "CKA_PUBLIC_EXPONENT",
	pkcs11.CKA_EC_PARAMS:          "CKA_EC_PARAMS",
}

var classNames = map[uint]string{
	pkcs11.CKO_SECRET_KEY:  "CKO_SECRET_KEY",
	pkcs11.CKO_PRIVATE_KEY: "CKO_PRIVATE_KEY",
	pkcs11.CKO_PUBLIC_KEY:  "CKO_PUBLIC_KEY",
}

var keyTypeNames = map[uint]string{
	pkcs11.CKK_AES:            "CKK_AES",
	pkcs11.CKK_GENERIC_SECRET: "CKK_GENERIC_SECRET",
	pkcs11.CKK_RSA:            "CKK_RSA",
	pkcs11.CKK_EC:             "CKK_EC",
}
