package hsm

// UnwrapTemplate is the CKA_UNWRAP_TEMPLATE of a KEK that can be replaced.
func UnwrapTemplate() []byte { return unwrapTemplate(rotatableForm) }
