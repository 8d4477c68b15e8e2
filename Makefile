# Hotplate: every command a user needs. The first use of each installs what it needs into .venv.
.DEFAULT_GOAL := help
PORT ?= 8000
DATASET ?= mnist fashion-mnist cifar10
ARGS ?=
JOBS ?= 2
BENCH ?= bench
PYTHON ?= python3
VARIANT := $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
BIN := .venv/bin
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)".*/\1/p' service/__init__.py)
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

LOCK = $(BIN)/uv pip compile --quiet pyproject.toml --constraint constraints.txt --generate-hashes --no-annotate \
  --python-version 3.11 --python-platform linux --custom-compile-command "make lock"

.PHONY: help serve test test-all lint docs train bench loadtest image lock proto clean

help: ## Show this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 17

serve: $(BIN)/.serving ## Serve the shipped models on PORT (8000); more options in ARGS
	$(BIN)/hotplate serve --port $(PORT) $(ARGS)

test: $(BIN)/.developing ## Run the tests that need Python alone, in JOBS processes (2)
	$(BIN)/python -m pytest --numprocesses $(JOBS) $(ARGS)

test-all: $(BIN)/.developing ## Install what the other tests need, or name it, and run all, with coverage
	$(BIN)/python -m tests.tiers
	$(BIN)/python -m pytest --all-tiers tests/hostile  # alone, for it measures
	$(BIN)/python -m pytest --all-tiers --cov --numprocesses $(JOBS) --ignore tests/hostile $(ARGS)

lint: $(BIN)/.developing ## Check style and types
	$(BIN)/ruff check && $(BIN)/ruff format --check && $(BIN)/mypy

docs: $(BIN)/.developing ## Write anew what READMEs and the chart's schema take from the code
	$(BIN)/python -m tests.readme_tables && $(BIN)/python -m tests.deploy.chart_documents

train: $(BIN)/.developing ## Train and export the classifiers in DATASET (all three)
	for dataset in $(DATASET); do $(BIN)/python -m training.train_classifier --dataset $$dataset $(ARGS) || exit 1; done

bench: $(BIN)/.developing ## Measure the service beside its peers (needs wrk; h2load for gRPC); BENCH=bench_language for texts, bench_style for paintings, bench_generators for drawings, interference for models beside each other, flame for flame graphs, hostile for attacks
	$(BIN)/python -m loadtests.$(BENCH) $(ARGS)

loadtest: $(BIN)/.developing ## Load a service with all models for a minute: table, report, exit status
	$(BIN)/python -m loadtests.load $(ARGS)

image: ## Build the container image hotplate:cpu or hotplate:gpu (VARIANT) with docker
	docker build --build-arg VARIANT=$(VARIANT) --build-arg VERSION=$(VERSION) --build-arg REVISION=$$(git rev-parse --short HEAD) --tag hotplate:$(VARIANT) .

lock: $(BIN)/.developing ## Resolve anew what the images install
	for variant in cpu gpu; do $(LOCK) --extra $$variant --extra otel --output-file service/requirements.$$variant.lock || exit 1; done
	$(LOCK) --extra loadtests --output-file loadtests/requirements.lock

proto: $(BIN)/.developing ## Generate the gRPC messages from their .proto
	$(BIN)/python -m service.protocols.open_inference.grpc.generate

clean: ## Remove .venv, caches and build results
	rm -rf .venv build dist tests/playground/node_modules .mypy_cache .ruff_cache .pytest_cache .coverage* *.egg-info

$(BIN)/.serving: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv && $(INSTALL) '.[$(VARIANT)]' && touch $@
$(BIN)/.developing: $(BIN)/.serving
	$(INSTALL) '.[$(VARIANT),import,training,loadtests,dev]' && touch $@
