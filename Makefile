# ADDRESS and STATE say where "run" and "demo" put the gateway; FUZZTIME is how
# long each fuzz target runs; VULNDB is a copy of the Go vulnerability database.
ADDRESS ?= 127.0.0.1:7373
STATE ?= state
export ADDRESS STATE FUZZTIME VULNDB

.DEFAULT_GOAL := help
.PHONY: help build run demo test test-roots test-stores test-vault test-matrix test-asan faults soak churn lint fuzz vuln bench allocs pgo clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "ADDRESS=host:port STATE=directory make run puts the gateway elsewhere than $(ADDRESS), ./$(STATE)."

build: ## build bin/keygate
	@scripts/packages.sh build
	@scripts/build.sh

run: ## set up what is missing, and start a gateway on a SoftHSM2 token, in the foreground
	@scripts/packages.sh run
	@scripts/build.sh
	@scripts/run.sh run

demo: ## the same, run an example, and stop
	@scripts/packages.sh run
	@scripts/build.sh
	@scripts/run.sh demo

test: ## pass the tests, with the race detector, and again in FIPS 140-3 mode
	@scripts/packages.sh test
	@scripts/aws.sh scripts/test.sh lint race fips fuzz vuln

test-roots: ## pass the suite of roots of trust on each that there is, and say which were skipped
	@scripts/packages.sh test
	@CI= scripts/aws.sh scripts/test.sh roots

test-stores: ## pass the suite of key stores on each kind, with real servers, and say what was skipped
	@scripts/test-stores.sh

test-vault: ## pass the tests of the Vault drivers on a real Vault core, which is built first (minutes, once)
	@scripts/packages.sh test
	@scripts/test.sh vault

test-matrix: ## pass the tests of the whole gateway over each root and store, and with each broken, and print the tables
	@scripts/packages.sh test
	@scripts/aws.sh scripts/test.sh matrix

test-asan: ## pass tests of package hsm with the address sanitizer of C (minutes)
	@scripts/packages.sh test
	@scripts/test.sh asan

faults: ## run the fault matrix of the HSM, and write docs/hsm-faults.md
	@scripts/packages.sh test
	@CI=true KEYGATE_LONG=1 go test ./hsm -count=1 -v -timeout 1h -run 'FaultMatrix|MatrixOfCeremonies' -args -update

soak: ## run a gateway under a mixed load for SOAK (default 60m), with and without the race detector, and judge whether it grows
	@scripts/packages.sh test
	@SOAK=$${SOAK:-60m} scripts/test.sh soak

churn: ## take one of two tokens away from a busy gateway and bring it back, CHURN (default 100) times
	@scripts/packages.sh test
	@CHURN=$${CHURN:-100} scripts/test.sh churn

lint: ## look at the code: gofmt, go vet, staticcheck
	@scripts/packages.sh build
	@scripts/test.sh lint

fuzz: ## run each fuzz target for FUZZTIME (default 10s)
	@scripts/packages.sh test
	@FUZZTIME=$${FUZZTIME:-10s} scripts/test.sh fuzz

vuln: ## look for known vulnerabilities in what is used, in VULNDB or on the network
	@VULNDB=$${VULNDB:-https://vuln.go.dev} scripts/test.sh vuln

bench: ## measure against an echo server and a bare PKCS#11 loop (minutes); writes bench/results.md
	@scripts/packages.sh run
	@GOFIPS140=$${GOFIPS140-certified} go run ./bench $(BENCHFLAGS)

allocs: ## write down what a request allocates now, from which the tests allow 10 % more
	@scripts/packages.sh test
	@CI=true go test ./gateway -count=1 -run '^TestAllocations$$' -update-allocs

pgo: ## profile a gateway under load, for its build (a minute); writes cmd/keygate/keygate.pgo
	@scripts/packages.sh run
	@go run ./bench -pgo cmd/keygate/keygate.pgo

# Clusters and charts.
.PHONY: cluster test-helm
cluster: ## start three gateways, with etcd, and run an example over them; PORT= puts them elsewhere
	@scripts/packages.sh run
	@scripts/build.sh
	@scripts/cluster.sh run

test-helm: ## pass the tests of the Helm chart (the first time for minutes)
	@scripts/packages.sh run
	@scripts/build.sh
	@scripts/test-helm.sh

clean: ## remove what was built; the state of "make run" stays
	rm -rf bin
