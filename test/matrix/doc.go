// Package matrix tests the whole gateway, as the program that is shipped, over
// every root of trust and every key store, and with each of them broken. It has
// tests only.
package matrix
