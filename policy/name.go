package policy

// maxName is the number of bytes in the longest name.
const maxName = 80

// validName reports whether s can name a key, a policy or an identity: 1 to 80
// of [0-9A-Za-z_-], not starting or ending with a hyphen and not a lone
// underscore. It is the rule of keystore.ValidName.
func validName(s string) bool {
	return validPrefix(s) && s != "" && s != "_" && s[len(s)-1] != '-'
}

// validPrefix reports whether s can begin a name; the empty one can.
func validPrefix(s string) bool {
	if len(s) > maxName || (s != "" && s[0] == '-') {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !('0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' || c == '_' || c == '-') {
			return false
		}
	}
	return true
}
