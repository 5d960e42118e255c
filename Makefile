# setgate: build, demonstrate, test. `make` alone says what there is.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# cargo's own folder, wherever it is told to be.
export TARGET := $(or $(CARGO_TARGET_DIR),target)
TEST_LAB := $(TARGET)/test-lab
LAB := $(TARGET)/debug/setgate-lab

.PHONY: help
help: ## What there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

.PHONY: setup
setup: ## Install what is missing: RabbitMQ, etcd, protoc, promtool, valgrind, a C compiler (by apt-get, where it is there)
	@scripts/setup

.PHONY: build
build: setup ## Build both binaries, optimized
	cargo build --release --locked

.PHONY: demo
demo: setup ## Three RabbitMQ clusters in two cities, gateways between, 30,000 messages, and the account of them
	@echo "demo: building (some minutes the first time, seconds afterwards)"
	cargo build --release --locked
	$(TARGET)/release/setgate-lab demo

.PHONY: lint
lint: ## Format, clippy, and the alert rules of deploy/
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	@shopt -s nullglob; \
	for file in deploy/*rules*.y*ml deploy/prometheus/*rules*.y*ml; do promtool check rules "$$file"; done; \
	for file in deploy/prometheus*.y*ml deploy/prometheus/prometheus*.y*ml; do \
		case "$$file" in *rules*) ;; *) promtool check config "$$file" ;; esac; \
	done

.PHONY: test
test: setup nextest ## Everything: lints, unit tests, and integration tests on real RabbitMQ and etcd
	@echo "test: building (some minutes the first time)"
	cargo build --locked --bins
	@$(MAKE) --no-print-directory lint
	cargo nextest run --locked --no-run
	@$(MAKE) --no-print-directory test-lab
	@trap '$(LAB) down --dir $(TEST_LAB) >/dev/null 2>&1' EXIT; cargo nextest run --locked

.PHONY: test-lab
test-lab: setup ## Start the brokers and the etcd that tests share; they stay until `make test-lab-down`
	cargo build --locked --bins
	@$(LAB) status --dir $(TEST_LAB) >/dev/null 2>&1 || \
		$(LAB) up --bare --units 3 --dir $(TEST_LAB) --detach

.PHONY: test-lab-down
test-lab-down: ## End them
	@$(LAB) down --dir $(TEST_LAB)

# The same tests and measurements with the figures that a release is judged by; each starts the shared brokers first, and
# they stay. Not by nextest, which ends what takes more than five minutes.
.PHONY: bench-engine
bench-engine: test-lab ## What a message costs: the engine and lapin on one broker, and the pure machine alone (5 minutes)
	cargo bench --locked --bench engine

.PHONY: bench-rules
bench-rules: setup ## What routing costs: a decision beside 20 and 1,000 rules, a table of 10,000 rules and 10,000 pins (2 minutes)
	cargo bench --locked --bench rules

.PHONY: outcomes
outcomes: test-lab ## 1,000,000 publishes through 20 killed connections: one outcome each, and the right one (5 minutes)
	SETGATE_OUTCOMES_MESSAGES=1000000 cargo test --locked --release --test outcomes -- --nocapture

.PHONY: held
held: test-lab ## A target stopped for five minutes; 10,000 messages of 64 KiB and 100 of 60 MiB in 128 MiB (25 minutes)
	SETGATE_HELD_SECONDS=300 SETGATE_MEMORY_MESSAGES=10000 SETGATE_MEMORY_LARGE=100 \
		cargo test --locked --release --test promises -- --nocapture --test-threads=1 held:: memory::

.PHONY: mutations
mutations: ## Deliberate faults of the core, one after the other: the simulated worlds must catch each (11 minutes)
	SETGATE_MUTATIONS=all cargo test --locked --test mutations -- --nocapture --test-threads=1

# Labs of their own, on which everything breaks. They print the seed; SEED=n breaks the same in the same order.
CHAOS := $(TARGET)/release/setgate-lab
SEEDED := $(if $(SEED),--seed $(SEED))

.PHONY: lab-release
lab-release: setup
	cargo build --release --locked

.PHONY: chaos
chaos: lab-release ## Kills, freezes, cuts, alarms and failpoints under 1,000 msg/s: the account of it (MINUTES=10 and 3 more)
	$(CHAOS) chaos --minutes $(or $(MINUTES),10) $(SEEDED)

.PHONY: kills
kills: lab-release ## 100 kills of the receiving gateway and 100 of the sending one, 30 of each at the seams (50 minutes)
	$(CHAOS) kills --side receiving --count $(or $(COUNT),100) --failpoints $(or $(FAILPOINTS),30) $(SEEDED)
	$(CHAOS) kills --side sending --count $(or $(COUNT),100) --failpoints $(or $(FAILPOINTS),30) $(SEEDED)

.PHONY: cut-off
cut-off: lab-release ## One unit cut off: 10 minutes of 1,000 msg/s, then 2 minutes of 64 KiB at 50 msg/s (25 minutes)
	$(CHAOS) cut-off
	$(CHAOS) cut-off --before 1 --during 2 --size 65536 --rate 50

.PHONY: drills
drills: lab-release ## Every drill under traffic, into docs/drills.md (20 minutes)
	$(CHAOS) drill all --docs docs

.PHONY: soak
soak: lab-release ## Hours of traffic with restarts and reconnects; memory, descriptors and latency must stay flat (MINUTES=120)
	$(CHAOS) soak --minutes $(or $(MINUTES),120) $(SEEDED)

.PHONY: scale
scale: lab-release ## A space grows from 3 units to 50 of 10 gateways: tables, etcd, links, into docs/scale.md (5 minutes)
	$(CHAOS) scale --docs docs

.PHONY: bench
bench: lab-release ## setgate, shovel and federation on the same brokers over distances: rates, CPU, bytes, latency, into docs/benchmarks.md (half an hour)
	$(CHAOS) bench --docs docs

.PHONY: bench-memory
bench-memory: lab-release ## A backlog of 1,000,000, messages of 1 MiB, 200 lanes: a gateway's memory, into docs/benchmarks-memory.md (10 minutes)
	$(CHAOS) bench --cells memory --docs docs

.PHONY: bench-cores
bench-cores: lab-release ## Gateways held to one core and to two, and what more would carry, into docs/benchmarks-cores.md (3 minutes)
	$(CHAOS) bench --cells cores --docs docs

.PHONY: nightly
nightly: ## What a night should see: ten minutes of soak and of chaos, every deliberate fault caught, a short benchmark
	$(MAKE) soak MINUTES=10
	$(MAKE) chaos MINUTES=10
	$(MAKE) mutations
	$(CHAOS) bench --quick

.PHONY: nextest
nextest:
	@cargo nextest --version >/dev/null 2>&1 || { \
		echo "test: installing the test runner cargo-nextest (some minutes, once)"; \
		cargo install cargo-nextest --locked || { \
			echo "test: cargo-nextest could not be installed; see https://nexte.st for a binary, then run this again"; \
			exit 1; }; }

.PHONY: clean
clean: ## End a lab that still runs, and remove what was built
	@for dir in $(TARGET)/lab $(TEST_LAB) $(TARGET)/demo-lab $(TARGET)/chaos-lab $(TARGET)/bench-lab/lab $(TARGET)/scale-lab/one $(TARGET)/scale-lab/real; do \
		if [ -d "$$dir" ] && [ -x $(LAB) ]; then $(LAB) down --dir "$$dir" || true; fi; \
	done
	cargo clean
