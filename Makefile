# `make` without a target lists the targets. stack/README.md lists the variables for ports and
# folders.

STACK := stack/stack.sh
# rustup installs cargo here, which is not in the PATH of every shell. `prerequisites lint` puts
# promtool into target/.
export PATH := $(PATH):$(HOME)/.cargo/bin:$(abspath target/tools/usr/bin)

# Architecture of the static binaries and images: amd64, arm64, armv7, or several of them.
ARCH ?= amd64
# Seconds after which a test run that hangs is ended. The last line printed names the test.
TEST_LIMIT_S ?= 1800
# Failpoints are compiled in: points at which a test stops the handler.
TEST_FEATURES ?= command-handler/failpoints
# With all of the workspace in each run: a subset has other features and would be built again.
CARGO_TEST := timeout --foreground --kill-after=30 $(TEST_LIMIT_S) \
	cargo test --locked --workspace --features "$(TEST_FEATURES)" --no-fail-fast

# Only the quick compiler of Java: the start of a broker takes 3 instead of 5 s of CPU time, and the
# tests start many.
TEST_JAVA := JAVA_TOOL_OPTIONS=-XX:TieredStopAtLevel=1
# The tests have stacks of their own, so they can run while `make up` is in use. All ports are below
# 32768: from there on Linux takes the ports of outgoing connections.
TEST := $(TEST_JAVA) PROFILE=dev STACK_DIR=target/test-stack FEATURES=$(TEST_FEATURES) \
	KAFKA_PORT=29092 REGISTRY_PORT=28081 POSTGRES_PORT=25432 HEALTH_PORTS=27500 \
	CONTROL_PORT=27888 GRAPHQL_PORT=28888 FRONTEND_PORT=28181
TEST_BROWSER := $(TEST) STACK_DIR=$(abspath target/test-stack-browser) \
	RESULTS_DIR=$(abspath services/frontend/page/tests/results):$(abspath docs)
TEST_IMAGES := $(TEST_JAVA) PROFILE=dev STACK_DIR=target/test-stack-images \
	FEATURES=$(TEST_FEATURES) \
	KAFKA_PORT=22092 REGISTRY_PORT=22081 POSTGRES_PORT=22432 HEALTH_PORTS=22500 \
	CONTROL_PORT=22888 GRAPHQL_PORT=22988 FRONTEND_PORT=22181
# Three brokers, and a standby of PostgreSQL.
TEST_CHAOS := $(TEST) STACK_DIR=target/test-stack-chaos BROKERS=3 STANDBY_PORT=25433
TEST_PEERS := $(TEST) STACK_DIR=target/test-stack-peers
# Three brokers. They close idle connections and end SASL sessions after 5 s, and delete and compact
# segments within 1 s, so that the tests can wait for each of these. They create topics for clients
# that ask for it: the clients of the bank never do.
TEST_KAFKA := $(TEST) STACK_DIR=target/test-stack-kafka
TEST_KAFKA_OPTIONS := connections.max.idle.ms=5000 connections.max.reauth.ms=5000 \
	log.retention.check.interval.ms=1000 log.cleaner.backoff.ms=1000 \
	auto.create.topics.enable=true

COMMON_TESTS := $(patsubst %.rs,--test %,$(notdir $(wildcard common/*/tests/*.rs)))
# Without the rolling upgrade, which is also a scenario of `make chaos`.
BANK_TESTS := --lib --bins $(patsubst %.rs,--test %,$(filter-out rolling_upgrade.rs,\
	$(notdir $(wildcard bench/tests/*.rs services/*/tests/*.rs tests/tests/*.rs))))
# The part of the integration tests that Kafka 4 is most likely to break. The other services run on
# it in the short form of `make chaos`.
KAFKA_4_COMMON_TESTS := $(addprefix --test ,kafka kafka_groups kafka_sasl kafka_topics)
KAFKA_4_BANK_TESTS := $(addprefix --test ,rules replay)
# The kafka crate can't connect to Kafka 4.
CLIENTS = $(or $(KAFKA_CLIENT),$(if $(filter 4,$(KAFKA)),built-in,kafka-crate built-in))
# Those whose names contain T.
FUZZ_TARGETS = $(sort $(foreach file,$(wildcard fuzz/fuzz_targets/*$(T)*.rs),\
	$(basename $(notdir $(file)))))
FUZZ_S ?= 60
# Limit of the time that one input may take.
FUZZ_INPUT_S ?= 10
# Producer modes that are measured: one record per request, batches, batches of the built-in client.
MODES := single,batched,built-in
PEERS = $$(ls peers/*/run* | sed 's|peers/||; s|/run||' | paste -sd,)

# A part of the names of the tests to run: test-one passes it to test-unit, test-stack, test-kafka
# and test-bank. Set here so that a variable T of the environment selects nothing.
T :=
# A target that calls another one.
MAKE_TARGET := $(MAKE) --no-print-directory

.PHONY: help \
	up down status logs env wipe build demo \
	test lint lint-dependencies test-one test-unit test-stack test-browser test-integration \
	test-kafka test-bank test-kafka-4 test-peers test-binaries test-images chaos fuzz \
	check-bank verify bench bench-quick results bench-probe bench-graphql bench-scale \
	soak compare-handlers footprint \
	peers binaries images verify-reproducible \
	schema configuration page graphiql screenshots

help: ## list the targets
	@awk -F ':.*## ' '/^##@ / { print "\n" substr($$0, 5) } \
		/^[a-z0-9-]+:.*## / { printf "  make %-19s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##@ Run the bank (KAFKA=4 selects Kafka 4.4, the default is 3.9)

demo: ## run the bank under load for one minute and check every cent; DEMO_S=10
	@echo "Running the demo: about 80 seconds, about 6 minutes on the first run"
	@$(STACK) with bench demo $(if $(DEMO_S),--duration-s $(DEMO_S)) $(ARGS)

up: ## start Kafka, the registry, PostgreSQL and the bank: http://localhost:8181
	@echo "Starting the bank: about 30 seconds, about 6 minutes on the first run"
	@$(STACK) up

down: ## stop all of them
	@echo "Stopping the bank: a few seconds"
	@$(STACK) down

status: ## print one line for each part: up or down, pid, port, memory
	@$(STACK) status

logs: ## follow the logs; PART=command-handler for one part
	@$(STACK) logs $(PART)

env: ## print the addresses of the running bank as NAME=value lines (make -s env)
	@$(STACK) env

wipe: ## stop the bank and delete its data
	@echo "Stopping the bank and deleting its data: a few seconds"
	@$(STACK) wipe

build: ## build all services
	@echo "Building all services: about 4 minutes from a clean checkout"
	@$(STACK) build

##@ Test (on separate servers and ports)

test: ## run all tests
	@echo "Running all tests on separate servers: about 38 minutes"
	@$(MAKE_TARGET) test-unit
	@$(MAKE_TARGET) test-stack
	@$(MAKE_TARGET) test-browser
	@$(MAKE_TARGET) test-integration

lint: ## check format, lints, module cycles, prose, shell scripts and alerts
	@echo "Checking format and lints: about 1 minute, 5 minutes from a clean checkout"
	@$(STACK) prerequisites build lint
	cargo fmt --all --check
	for other in peers/rust-*/ fuzz/; do \
		cargo fmt --manifest-path "$$other/Cargo.toml" --check || exit 1; done
	cargo clippy --locked --workspace --all-targets --all-features -- -D warnings
	cargo clippy --locked --workspace --lib --bins -- -D warnings -W clippy::too_many_lines
	cargo clippy --locked -p messaging --no-default-features -- -D warnings
	cargo clippy --locked -p service -p kafka-client --no-default-features -- -D warnings
	cargo clippy --locked -p frontend --all-targets -- -D warnings
	.ci/test_module_cycles.py
	.ci/module_cycles.py
	.ci/test_test_one.py
	.ci/test_prose.py
	.ci/prose.py
	shellcheck --external-sources --check-sourced \
		stack/stack.sh deploy/*/*.sh .ci/run \
		services/graphql-endpoint/graphiql/build.sh services/frontend/page/build.sh \
		peers/*/build.sh peers/*/run* common/kafka-client/golden/make.sh
	promtool check config deploy/prometheus/prometheus.yml
	promtool test rules deploy/prometheus/alerts.test.yml
	.ci/dashboard.py

lint-dependencies: ## check licenses, duplicates and banned crates with cargo-deny
	@echo "Checking dependencies: a few seconds, 5 minutes from a clean checkout"
	@$(STACK) prerequisites build
	cargo install --locked --quiet --debug --root target/tools cargo-deny@0.20.2
	PATH="$(abspath target/tools/bin):$$PATH" \
		cargo deny --locked check --hide-inclusion-graph bans licenses sources

test-one: ## run each Rust test whose name contains T, with its servers; T=transfer
	@.ci/test_one.py "$(T)"

test-unit: ## run the tests that need no server
	@echo "Running the unit tests: about 3 minutes from a clean checkout"
	@$(STACK) prerequisites build
	$(CARGO_TEST) $(TESTS) -- $(T)

test-stack: ## test the commands of stack.sh
	@echo "Testing the commands of stack.sh: about 2 minutes"
	@$(STACK) prerequisites servers build
	@$(TEST) $(STACK) build
	@$(TEST) cargo test --locked --package stack --test stack -- \
		--ignored --test-threads=1 --nocapture $(T)

test-browser: ## test the web pages in Chromium
	@echo "Testing the web pages in Chromium: about 5 minutes"
	@$(STACK) prerequisites build browser
	services/frontend/page/build.sh --check
	services/graphql-endpoint/graphiql/build.sh --check
	@$(TEST_BROWSER) $(STACK) wipe
	cd target/page && $(TEST_BROWSER) $(abspath $(STACK)) with \
		node --test --test-timeout=300000 --test-concurrency=1 tests/

test-integration: ## run test-kafka and test-bank; KAFKA=4, KAFKA_CLIENT=built-in
	@echo "Running the integration tests: about 28 minutes"
	@$(STACK) prerequisites test browser
	@$(MAKE_TARGET) test-kafka
	@$(MAKE_TARGET) test-bank

test-kafka: ## test common/ on three brokers with both clients; TESTS="--test kafka"
	@echo "Testing on three Kafka brokers: about 6 minutes with each client ($(CLIENTS))"
	@$(TEST_KAFKA) $(STACK) wipe
	@$(TEST_KAFKA) BROKERS=3 SASL_PORT=29292 KAFKA_OPTIONS="$(TEST_KAFKA_OPTIONS)" \
		$(STACK) with --servers-only sh -ec 'for client in $(CLIENTS); do \
			echo "KAFKA_CLIENT=$$client"; \
			KAFKA_CLIENT=$$client $(CARGO_TEST) $(or $(TESTS),$(COMMON_TESTS)) \
				-- --ignored --test-threads=1 $(T); done'

test-bank: ## test the bank; TESTS="--test faults --test kills" for some files
	@echo "Testing the bank on real servers: about 19 minutes for all tests"
	@$(TEST) $(STACK) wipe
	@$(TEST) $(STACK) build
	@cargo build --locked --workspace --features "$(TEST_FEATURES)" --example wrong_handler
	@$(TEST) $(STACK) with --servers-only $(CARGO_TEST) $(or $(TESTS),$(BANK_TESTS)) \
		-- --ignored --test-threads=1 $(T)

# `make test-integration KAFKA=4` runs all integration tests on Kafka 4.
test-kafka-4: ## run the integration tests that CI runs on Kafka 4
	@echo "Running some integration tests on Kafka 4: about 6 minutes"
	@$(STACK) prerequisites test
	@$(MAKE_TARGET) test-kafka KAFKA=4 TESTS="$(KAFKA_4_COMMON_TESTS)"
	@$(MAKE_TARGET) test-bank KAFKA=4 TESTS="$(KAFKA_4_BANK_TESTS)"

# Debug builds in the folder of the bank's tests, and a short verification.
test-peers: ## build and verify the command-handlers in peers/
	@echo "Building and verifying the command-handlers in peers/: about 5 minutes"
	@$(MAKE_TARGET) peers PROFILE=dev
	@$(TEST_PEERS) $(STACK) build
	@$(TEST_PEERS) $(STACK) wipe
	@$(TEST_PEERS) $(STACK) with --servers-only bench verify \
		--kills 1 --kill-transfers 300 --out target/test-peers --handler "$(PEERS)"

test-binaries: ## build the binaries that test-images runs
	@echo "Building the binaries of test-images: about 9 minutes"
	@$(STACK) prerequisites static
	@deploy/images/binaries.sh amd64
	@BINARIES="synchronizer command-handler" DIST=target/test-images/dist \
		deploy/images/binaries.sh arm64
	@BINARIES=graphql-endpoint FEATURES=graphql-endpoint/failpoints \
		DIST=target/test-images/failpoints deploy/images/binaries.sh amd64

test-images: ## run all images as containers, and the arm64 binaries in an emulator
	@echo "Testing the images and the arm64 binaries: about 14 minutes"
	@$(MAKE_TARGET) test-binaries
	@$(STACK) prerequisites images
	@deploy/images/images.sh amd64
	@$(TEST_IMAGES) $(STACK) wipe
	@$(TEST_IMAGES) $(STACK) build
	@cargo build --locked --workspace --features "$(TEST_FEATURES)" --example largest_records
	@$(TEST_IMAGES) $(STACK) with --servers-only deploy/images/test.sh

chaos: ## make faults under load and check all guarantees; CHAOS=short, SCENARIO=broker-killed
	@echo "Making faults under load: about $(if $(filter short,$(CHAOS)),3,16) minutes"
	@$(if $(filter short,$(CHAOS)),,$(STACK) prerequisites chaos)
	@$(TEST_CHAOS) $(STACK) wipe
	@$(TEST_CHAOS) $(STACK) with bench chaos $(if $(filter short,$(CHAOS)),--short) \
		$(if $(SCENARIO),--scenarios $(SCENARIO)) $(ARGS)

fuzz: ## fuzz each parser of outside bytes for FUZZ_S=60 seconds with libFuzzer; T=http
	@echo "Fuzzing $(words $(FUZZ_TARGETS)) parsers: $(FUZZ_S) seconds each, and the build"
	@$(STACK) prerequisites build fuzz
	cargo install --locked --quiet --root target/tools cargo-fuzz@0.13.1
	for target in $(FUZZ_TARGETS); do \
		mkdir -p target/fuzz/corpus/$$target; \
		PATH="$(abspath target/tools/bin):$$PATH" cargo fuzz run \
			--fuzz-dir fuzz --target-dir target/fuzz --sanitizer none \
			$$target target/fuzz/corpus/$$target $$(find fuzz/corpus -maxdepth 1 -name $$target) -- \
			-max_total_time=$(FUZZ_S) -timeout=$(FUZZ_INPUT_S) -rss_limit_mb=1024 || exit 1; done

check-bank: ## check every cent of the bank that `make up` or `make demo` has left
	@echo "Checking the bank: some seconds for each 100,000 commands"
	@$(STACK) with --servers-only bench check $(ARGS)

verify: ## check a command-handler against its contract; HANDLER=java; IMAGE=name
	@echo "Verifying a command-handler: a few minutes for each"
	@$(STACK) build
	@$(STACK) with --servers-only bench verify \
		$(if $(IMAGE),--image "$(IMAGE)",--handler "$(or $(HANDLER),scratchbank)") $(ARGS)

##@ Measure (ARGS="..." passes further options to the program bench)

bench: ## latency and highest load in three modes, three runs each, with graphs
	@echo "Measuring the bank in three modes, three runs each: about 1 hour"
	@$(STACK) with sh -c 'bench run --profile max --modes $(MODES) --runs 3 $(ARGS) \
		&& bench report'

bench-quick: ## the same, one short run in each mode
	@echo "Measuring the bank in three modes, one short run each: about 4 minutes"
	@$(STACK) with sh -c 'bench run --profile quick --modes $(MODES) $(ARGS) \
		&& bench report'

results: ## write docs/results.md from the rows of the last make bench
	@echo "Writing docs/results.md: a few seconds after the build"
	@$(STACK) prerequisites build
	cargo run --locked --quiet --release -p bench -- report --docs docs/results.md

bench-probe: ## latency, throughput and CPU time of the command-handler in each mode
	@echo "Measuring the command-handler in each mode: about 10 minutes"
	@$(STACK) with bench probe $(ARGS)

bench-graphql: ## capacity of the graphql-endpoint: subscribers, queries, memory
	@echo "Measuring the graphql-endpoint: about 2 minutes"
	@$(STACK) prerequisites build
	cargo build --locked --release -p graphql-endpoint --example load
	@$(STACK) with bash -ec 'export ENDPOINT_PID=$$($(STACK) pid graphql-endpoint); \
		for run in "10000 30 200 0" "1000 15 0 4" "5000 15 1000 0"; do \
			target/release/examples/load $$run; done'

bench-scale: ## cost of a transfer with 1,000 and with 1,000,000 accounts
	@echo "Measuring transfers in a small and in a large bank: about 15 minutes"
	@STACK_DIR=target/scale-stack $(STACK) wipe
	@STACK_DIR=target/scale-stack $(STACK) with bench scale $(ARGS)
	@STACK_DIR=target/scale-stack $(STACK) wipe

soak: ## an hour at half of the highest load: what grows; ARGS="--duration-s 600 --load 4000"
	@echo "Running the bank under half of its highest load: about 1 hour"
	@STACK_DIR=target/soak-stack $(STACK) wipe
	@STACK_DIR=target/soak-stack $(STACK) with bench soak $(ARGS)
	@STACK_DIR=target/soak-stack $(STACK) wipe

compare-handlers: ## compare all command-handlers, into docs/comparison.md; QUICK=1 is short
	@echo "Comparing all command-handlers: about $(if $(filter 1,$(QUICK)),15 minutes,2 hours)"
	@$(MAKE_TARGET) peers
	@$(STACK) build
	@$(STACK) with --servers-only bench compare --docs docs \
		$(if $(filter 1,$(QUICK)),--quick) $(ARGS)

footprint: ## sizes, startup time and memory of the images, into docs/footprint.md
	@echo "Measuring the images: about 10 minutes"
	@$(STACK) prerequisites static images
	@deploy/images/binaries.sh $(ARCH)
	@deploy/images/images.sh $(ARCH)
	@$(TEST_IMAGES) $(STACK) wipe
	@$(TEST_IMAGES) $(STACK) build
	@$(TEST_IMAGES) $(STACK) with --servers-only \
		deploy/images/engine.sh deploy/images/footprint.py $(ARCH)

##@ Package (ARCH="amd64 arm64 armv7" selects architectures, the default is amd64)

binaries: ## build static binaries, into dist/ARCH
	@echo "Building static binaries: about 4 minutes for each architecture"
	@$(STACK) prerequisites static
	@deploy/images/binaries.sh $(ARCH)

images: ## build an image of each service and one of all, into dist/images
	@echo "Building the images: about 5 minutes for each architecture"
	@$(MAKE_TARGET) binaries
	@deploy/images/images.sh $(ARCH)

verify-reproducible: ## build the committed sources twice and compare the binaries
	@echo "Building the binaries twice: about 8 minutes"
	@$(STACK) prerequisites static
	@deploy/images/verify-reproducible.sh $(firstword $(ARCH))

peers: ## build the other command-handlers, in peers/
	@echo "Building the command-handlers in peers/: several minutes"
	@$(STACK) prerequisites build peers
	@for build in peers/*/build.sh; do echo "$$build"; "$$build" || exit 1; done

##@ Generate files that are committed

schema: ## write schema.graphql, after a change of the graphql-endpoint's schema
	@echo "Writing services/graphql-endpoint/schema.graphql: a few seconds after the build"
	cargo run --locked --quiet -p graphql-endpoint -- --schema >target/schema.graphql
	mv target/schema.graphql services/graphql-endpoint/schema.graphql

configuration: ## write docs/configuration.md, after a change of the services' variables
	@echo "Writing docs/configuration.md: a few seconds after the build"
	WRITE_CONFIGURATION=1 cargo test --locked --quiet -p edge --test configuration

page: ## build the frontend's page, after a change of its sources; needs npm
	@echo "Building the frontend's page: about 1 minute"
	services/frontend/page/build.sh

graphiql: ## build GraphiQL, after a change of its version; needs npm
	@echo "Building GraphiQL: about 1 minute"
	services/graphql-endpoint/graphiql/build.sh

screenshots: ## take pictures of all pages, into docs/screenshots
	@echo "Taking pictures of all pages: about 2 minutes after the build"
	@$(STACK) prerequisites build browser
	services/frontend/page/build.sh --check
	@$(TEST_BROWSER) $(STACK) wipe
	cd target/page && $(TEST_BROWSER) $(abspath $(STACK)) with \
		node screenshots.js $(abspath docs/screenshots)
