# Bare `make` lists the targets. stack/README.md tells the variables that change ports and folders.

STACK := stack/stack.sh
# Where rustup puts cargo, for shells that don't look there.
export PATH := $(PATH):$(HOME)/.cargo/bin

# All ports here are below 32768: from there on Linux takes those of outgoing connections.
# The tests' own stack, beside one that `make up` started. Points at which a test stops the handler are compiled in.
TEST_FEATURES ?= command-handler/failpoints
TEST := PROFILE=dev STACK_DIR=target/test-stack FEATURES=$(TEST_FEATURES) \
	KAFKA_PORT=29092 REGISTRY_PORT=28081 POSTGRES_PORT=25432 HEALTH_PORTS=27500 CONTROL_PORT=27888 GRAPHQL_PORT=28888 FRONTEND_PORT=28181
TEST_BROWSER := $(TEST) STACK_DIR=$(abspath target/test-stack-browser) RESULTS_DIR=$(abspath services/frontend/page/tests/results):$(abspath docs)
TEST_IMAGES := PROFILE=dev STACK_DIR=target/test-stack-images \
	KAFKA_PORT=22092 REGISTRY_PORT=22081 POSTGRES_PORT=22432 HEALTH_PORTS=22500 CONTROL_PORT=22888 GRAPHQL_PORT=22988 FRONTEND_PORT=22181
TEST_PEERS := $(TEST) STACK_DIR=target/test-stack-peers
# Of the static binaries and images: amd64, arm64, armv7, or several of them.
ARCH ?= amd64
FUZZ_TARGETS := $(basename $(notdir $(wildcard common/kafka-client/fuzz/fuzz_targets/*.rs)))
# A test that hangs is ended after this many seconds; the last line printed names it.
TEST_LIMIT_S ?= 1800
CARGO_TEST := timeout --foreground --kill-after=30 $(TEST_LIMIT_S) cargo test --locked --workspace --features "$(TEST_FEATURES)" --no-fail-fast

.PHONY: help build schema graphiql page lint test test-unit fuzz test-stack test-integration test-kafka test-bank test-kafka-4 test-browser screenshots up down status logs \
	env wipe demo bench bench-quick results bench-scale bench-probe bench-graphql \
	peers test-peers verify compare-handlers binaries images verify-reproducible test-images footprint

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS='	' read -r name what; do \
		printf 'make %-17s %s\n' "$$name" "$$what"; done

build: ## builds all services
	@$(STACK) build

schema: ## writes the GraphQL schema anew, after a change of the endpoint's
	cargo run --locked --quiet -p graphql-endpoint -- --schema >target/schema.graphql
	mv target/schema.graphql services/graphql-endpoint/schema.graphql

graphiql: ## makes the files of GraphiQL anew, after a change of their versions; needs npm
	services/graphql-endpoint/graphiql/build.sh

page: ## makes the frontend's page anew, after a change of its sources; needs npm
	services/frontend/page/build.sh

lint: ## checks format, lints and module cycles, warnings denied
	@$(STACK) prerequisites build lint
	cargo fmt --all --check
	for other in peers/rust-*/ common/kafka-client/fuzz/; do cargo fmt --manifest-path "$$other/Cargo.toml" --check || exit 1; done
	cargo clippy --locked --workspace --all-targets --all-features -- -D warnings
	cargo clippy --locked --workspace --lib --bins -- -D warnings -W clippy::too_many_lines
	cargo clippy --locked -p messaging --no-default-features -- -D warnings
	cargo clippy --locked -p service -p kafka-client --no-default-features -- -D warnings
	cargo clippy --locked -p frontend --all-targets -- -D warnings
	.ci/test_module_cycles.py
	.ci/module_cycles.py
	shellcheck --external-sources --check-sourced stack/stack.sh deploy/images/*.sh .ci/run \
		services/graphql-endpoint/graphiql/build.sh services/frontend/page/build.sh peers/*/build.sh peers/*/run* \
		common/kafka-client/golden/make.sh

test: ## all tests: of the code, of the stack, of the bank on real servers
	@$(MAKE) --no-print-directory test-unit
	@$(MAKE) --no-print-directory test-stack
	@$(MAKE) --no-print-directory test-browser
	@$(MAKE) --no-print-directory test-integration

test-unit: ## tests that need no server
	@$(STACK) prerequisites build
	$(CARGO_TEST)

fuzz: ## libFuzzer on each parser of what brokers send, FUZZ_S=60 seconds each
	@$(STACK) prerequisites build fuzz
	cargo install --locked --quiet --root target/tools cargo-fuzz@0.13.1
	for target in $(FUZZ_TARGETS); do \
		mkdir -p target/fuzz/corpus/$$target; \
		PATH="$(abspath target/tools/bin):$$PATH" cargo fuzz run --fuzz-dir common/kafka-client/fuzz --target-dir target/fuzz --sanitizer none \
			$$target target/fuzz/corpus/$$target common/kafka-client/golden -- \
			-max_total_time=$(or $(FUZZ_S),60) -timeout=10 -rss_limit_mb=1024 || exit 1; done

test-stack: ## tests of up, down and the rest, on other ports
	@$(STACK) prerequisites servers build
	@$(TEST) $(STACK) build
	@$(TEST) cargo test --locked --package stack --test stack -- --ignored --test-threads=1 --nocapture

test-integration: ## tests on a real Kafka, registry and PostgreSQL, started for them on other ports; KAFKA=4, KAFKA_CLIENT=built-in
	@$(STACK) prerequisites test browser
	@$(MAKE) --no-print-directory test-kafka
	@$(MAKE) --no-print-directory test-bank

test-bank: ## those of them that test the bank; TESTS="--test faults --test kills" for some
	@$(TEST) $(STACK) wipe
	@$(TEST) $(STACK) build
	@cargo build --locked --workspace --features "$(TEST_FEATURES)" --example wrong_handler
	@$(TEST) $(STACK) with --servers-only $(CARGO_TEST) $(or $(TESTS),$(BANK_TESTS)) -- --ignored --test-threads=1

# What Kafka 4 may change, as far as it is quick: all of them on Kafka 4 is `make test-integration KAFKA=4`.
test-kafka-4: ## what CI runs of the integration tests on Kafka 4
	@$(STACK) prerequisites test
	@$(MAKE) --no-print-directory test-kafka KAFKA=4 TESTS="$(addprefix --test ,kafka kafka_groups kafka_sasl)"
	@$(MAKE) --no-print-directory test-bank KAFKA=4 TESTS="$(addprefix --test ,leader kills rules replay generator heartbeat synchronizer)"

test-browser: ## tests of the pages in a real Chromium, on a bank of their own
	@$(STACK) prerequisites build browser
	services/frontend/page/build.sh --check
	@$(TEST_BROWSER) $(STACK) wipe
	cd target/page && $(TEST_BROWSER) $(abspath $(STACK)) with node --test --test-timeout=300000 --test-concurrency=1 tests/

screenshots: ## pictures of all pages, into docs/screenshots
	@$(STACK) prerequisites build browser
	services/frontend/page/build.sh --check
	@$(TEST_BROWSER) $(STACK) wipe
	cd target/page && $(TEST_BROWSER) $(abspath $(STACK)) with node screenshots.js $(abspath docs/screenshots)

# The kafka crate can't speak with Kafka 4.
CLIENTS = $(or $(KAFKA_CLIENT),$(if $(filter 4,$(KAFKA)),built-in,kafka-crate built-in))
# Of the whole workspace, not of common/ alone or without it: with other features all would be built once more.
COMMON_TESTS := $(patsubst %.rs,--test %,$(notdir $(wildcard common/*/tests/*.rs)))
BANK_TESTS := --lib --bins $(patsubst %.rs,--test %,$(notdir $(wildcard bench/tests/*.rs services/*/tests/*.rs tests/tests/*.rs)))
# Idle connections are closed, and whoever has said who he is has to say so again, after five seconds; deleted segments and compacted ones are
# found in one.
TEST_KAFKA_OPTIONS := connections.max.idle.ms=5000 connections.max.reauth.ms=5000 log.retention.check.interval.ms=1000 log.cleaner.backoff.ms=1000

test-kafka: ## tests of common/ on three brokers, with each client that can speak with them or KAFKA_CLIENT alone; TESTS="--test kafka" for some
	@$(TEST) STACK_DIR=target/test-stack-kafka $(STACK) wipe
	@$(TEST) STACK_DIR=target/test-stack-kafka BROKERS=3 SASL_PORT=29292 KAFKA_OPTIONS="$(TEST_KAFKA_OPTIONS)" \
		$(STACK) with --servers-only sh -ec 'for client in $(CLIENTS); do \
			echo "KAFKA_CLIENT=$$client"; \
			KAFKA_CLIENT=$$client $(CARGO_TEST) $(or $(TESTS),$(COMMON_TESTS)) -- --ignored --test-threads=1; done'

up: ## starts Kafka, registry, PostgreSQL and the bank, whatever of it is down
	@$(STACK) up

down: ## stops them
	@$(STACK) down

status: ## a line for each part: up or down, pid, port, memory
	@$(STACK) status

logs: ## follows the logs; PART=name for one
	@$(STACK) logs $(PART)

env: ## addresses of the running stack, as NAME=value lines (make -s env)
	@$(STACK) env

wipe: ## stops them and deletes their data
	@$(STACK) wipe

demo: ## about a minute of the bank at work (DEMO_S), with the check that no cent is lost
	@$(STACK) with bench demo $(if $(DEMO_S),--duration-s $(DEMO_S)) $(ARGS)

bench: ## the talk's test in three modes, three runs each, and graphs: an hour
	@$(STACK) with sh -c 'bench run --profile max --modes single,batched,built-in --runs 3 $(ARGS) && bench report'

bench-quick: ## the same in 3 minutes: coarser, one run each
	@$(STACK) with sh -c 'bench run --profile quick --modes single,batched,built-in $(ARGS) && bench report'

results: ## docs/results.md from the rows of the last `make bench`
	@$(STACK) prerequisites build
	cargo run --locked --quiet --release -p bench -- report --docs docs/results.md

bench-scale: ## cost of a transfer with 1,000 and 1,000,000 accounts, with 10,000,000 changes behind it; on a stack of its own
	@STACK_DIR=target/scale-stack $(STACK) wipe
	@STACK_DIR=target/scale-stack $(STACK) with bench scale $(ARGS)
	@STACK_DIR=target/scale-stack $(STACK) wipe

bench-probe: ## latency and throughput of transfers: single, batched, built-in; ARGS="--loads 10,1000" for other options
	@$(STACK) with bench probe $(ARGS)

bench-graphql: ## 200 subscribers at 10,000 transactions a second, queries, and 1,000 subscribers: a line of JSON each
	@$(STACK) prerequisites build
	cargo build --locked --release -p graphql-endpoint --example load
	@$(STACK) with bash -ec 'export ENDPOINT_PID=$$($(STACK) pid graphql-endpoint); \
		for run in "10000 30 200 0" "1000 15 0 4" "5000 15 1000 0"; do target/release/examples/load $$run; done'

peers: ## builds the other implementations of the command-handler, in peers/
	@$(STACK) prerequisites build peers
	@for build in peers/*/build.sh; do echo "$$build"; "$$build" || exit 1; done

# Debug builds in the folder that the bank's tests use, and less to be killed in.
test-peers: ## builds and verifies all of them in short
	@$(MAKE) --no-print-directory peers PROFILE=dev
	@$(TEST_PEERS) $(STACK) build
	@$(TEST_PEERS) $(STACK) wipe
	@$(TEST_PEERS) $(STACK) with --servers-only \
		bench verify --kills 1 --kill-transfers 300 --out target/test-peers --handler "$$(ls peers/*/run* | sed 's|peers/||; s|/run||' | paste -sd,)"

verify: ## does a command-handler keep the bank's contract? HANDLER=name, several, all, or the command that starts it; or IMAGE=name
	@$(STACK) build
	@$(STACK) with --servers-only bench verify $(if $(IMAGE),--image "$(IMAGE)",--handler "$(or $(HANDLER),scratchbank)") $(ARGS)

compare-handlers: peers ## size, start, memory, latency and cost of all of them: docs/comparison.md; QUICK=1 for one short run of each
	@$(STACK) build
	@$(STACK) with --servers-only bench compare --docs docs $(if $(filter 1,$(QUICK)),--quick) $(ARGS)

binaries: ## static binaries in dist/ARCH; ARCH=arm64, armv7 or several
	@$(STACK) prerequisites static
	@deploy/images/binaries.sh $(ARCH)

images: binaries ## an image of each of them, and their sizes
	@deploy/images/images.sh $(ARCH)

verify-reproducible: ## builds what is committed twice and compares
	@$(STACK) prerequisites static
	@deploy/images/verify-reproducible.sh $(firstword $(ARCH))

test-images: ## the arm64 binaries in an emulator and all images as containers, on a stack of their own
	@$(STACK) prerequisites static images
	@deploy/images/binaries.sh amd64
	@BINARIES="synchronizer command-handler" DIST=target/test-images/dist deploy/images/binaries.sh arm64
	@deploy/images/images.sh amd64
	@$(TEST_IMAGES) $(STACK) wipe
	@$(TEST_IMAGES) $(STACK) build
	@$(TEST_IMAGES) $(STACK) with --servers-only deploy/images/test.sh

footprint: ## sizes, start-up and memory beside the talk's: docs/footprint.md, .json and .svg
	@$(STACK) prerequisites static images
	@deploy/images/binaries.sh $(ARCH)
	@deploy/images/images.sh $(ARCH)
	@$(TEST_IMAGES) $(STACK) wipe
	@$(TEST_IMAGES) $(STACK) build
	@$(TEST_IMAGES) $(STACK) with --servers-only deploy/images/engine.sh deploy/images/footprint.py $(ARCH)
