// Package soak runs the program for long under a mixed load, with the race
// detector, and judges whether it stays as it is: threads, file descriptors,
// sessions of the HSM, goroutines and memory. It has tests only; "make soak" runs
// them for an hour, and the usual tests for half a minute.
package soak
