EVENTS ?= 500000
KILLS ?= 1000
DATA ?= demo-data
RELEASE := $(or $(CARGO_TARGET_DIR),target)/release

.PHONY: help demo build test audit bench bench-kafka bench-stores torture fuzz demo-production

help:
	@echo "make demo         build the release binary and run the main job on real data"
	@echo "make demo-production  the production pipeline on Kafka, Cassandra and MongoDB, every row verified"
	@echo "make test         everything that must pass"
	@echo "make torture      kill the main job KILLS=$(KILLS) times and count every event"
	@echo "make bench        measure, side by side with the peers"
	@echo "make bench-kafka  the same against a real Kafka, which dev/services starts"
	@echo "make bench-stores the same against real stores and Kafka"
	@echo "make fuzz         feed random bytes to everything that parses bytes from outside"
	@echo "make audit        licences, sources and bans of all dependencies"

build:
	cargo build --release --package millstream

demo: build
	$(RELEASE)/millstream --data $(DATA) demo --events $(EVENTS)

# Kafka, the registry, Cassandra and MongoDB are those of dev/services (see CONTRIBUTING.md).
PRODUCTION := examples/navigation-production
PRODUCTION_PYTHON := target/python-production
PRODUCTION_EVENTS ?= 100000

demo-production: build $(PRODUCTION_PYTHON)/ready
	dev/services during $(PRODUCTION_PYTHON)/bin/python -B $(PRODUCTION)/demo.py --program $(RELEASE)/millstream $(PRODUCTION_EVENTS)

$(PRODUCTION_PYTHON)/ready: $(PRODUCTION)/requirements.txt
	python3 -m venv $(PRODUCTION_PYTHON)
	$(PRODUCTION_PYTHON)/bin/python -m pip install --quiet --requirement $<
	cp $< $@

test:
	$(if $(shell command -v python3),dev/services during) cargo test --workspace --no-fail-fast

torture:
	MILLSTREAM_KILLS=$(KILLS) cargo test --workspace --test torture -- --nocapture

fuzz:
	MILLSTREAM_FUZZ_SECONDS=60 cargo test --workspace fuzz -- --nocapture

audit:
	@command -v cargo-deny >/dev/null || { echo "installing cargo-deny"; cargo install --locked cargo-deny; }
	cargo deny check licenses sources bans
	cargo deny check advisories || echo "advisories: one was found, or their database could not be fetched; see above"

bench:
	cargo build --release --package millstream --package millstream-bench
	$(RELEASE)/millstream-bench --growth

bench-kafka:
	cargo build --release --package millstream --package millstream-bench
	dev/services during $(RELEASE)/millstream-bench --kafka

bench-stores:
	cargo build --release --package millstream --package millstream-bench
	dev/services during $(RELEASE)/millstream-bench --stores
