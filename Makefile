# `make help` lists what there is. Everything runs in .venv, which is made on first use from requirements.lock.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:
.PHONY: help demo load test check bench sim kills screenshots lock sbom audit clean

VENV := .venv
BIN := $(VENV)/bin
CONFIG ?=
SEEDS ?= 1000
SEED ?=
KILLS ?= 100
ARGS ?=
LOCKED = $(ARGS) --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 8

demo: $(VENV)/.ok ## generate 200,000 leads and load them into a simulated Marketo on this machine
	@$(BIN)/python tools/demo.py

load: $(VENV)/.ok ## load a real file: make load FILE=leads.csv [CONFIG=config.toml] [ARGS="--list-id 1234"]
	@if [ -z "$(FILE)" ]; then echo 'Which file? make load FILE=leads.csv' >&2; exit 2; fi
	$(BIN)/orchestrator load "$(FILE)" $(if $(CONFIG),--config "$(CONFIG)") $(ARGS)

test: $(VENV)/.ok $(VENV)/.audit ## run every test
	$(BIN)/python -m pytest -n 3 --dist worksteal

check: $(VENV)/.ok ## format, lint, types, layers, docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest tests/test_docs.py

bench: $(VENV)/.ok $(VENV)/.bench ## speeds beside other tools, as ratios measured in one run
	$(BIN)/python benchmarks/plan.py --memory 10000
	$(BIN)/python benchmarks/load.py
	$(BIN)/python benchmarks/report.py
	$(BIN)/python benchmarks/scale.py
	$(BIN)/python benchmarks/schedule.py 300
	$(BIN)/python benchmarks/formats.py
	$(BIN)/python benchmarks/daemon.py

sim: $(VENV)/.ok ## whole loads under faults and crashes: make sim SEEDS=10000 (or 5000-6000), make sim SEED=17 for one
	nice $(BIN)/python tests/simulation/run.py $(if $(SEED),$(SEED) aloud,$(SEEDS)) $(ARGS)

kills: $(VENV)/.ok ## real processes killed over and over, loads and the daemon: make kills KILLS=500
	$(BIN)/python tests/e2e/kills.py $(KILLS)
	$(BIN)/python tests/e2e/daemon_kills.py $(KILLS)

screenshots: $(VENV)/.ok ## pictures of the report and of the daemon's page, in demo/screenshots (needs a Chromium)
	$(BIN)/python tests/e2e/screenshots.py demo/screenshots

lock: ## write the locks again from pyproject.toml (needs uv): of everything, and of what a user runs, the benchmarks, the audit (newest: ARGS=--upgrade)
	uv pip compile $(LOCKED) --extra dev pyproject.toml -o requirements.lock
	uv pip compile $(LOCKED) --extra parquet --extra zstd --constraint requirements.lock pyproject.toml -o deploy/requirements.lock
	uv pip compile $(LOCKED) --extra bench --constraint requirements.lock pyproject.toml -o benchmarks/requirements.lock
	uv pip compile $(LOCKED) --extra audit --constraint requirements.lock pyproject.toml -o tools/requirements.lock

sbom: $(VENV)/.ok ## the parts of what a user runs, with versions, hashes and licences: dist/sbom.cdx.json (CycloneDX)
	@$(BIN)/python tools/sbom.py dist/sbom.cdx.json

audit: $(VENV)/.ok $(VENV)/.audit ## ask the public advisory database about every version that a lock pins
	@$(BIN)/python tools/audit.py $(ARGS)

clean: ## remove the environment and everything generated
	rm -rf $(VENV) demo dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.bench: benchmarks/requirements.lock $(VENV)/.ok
$(VENV)/.audit: tools/requirements.lock $(VENV)/.ok
$(VENV)/.bench $(VENV)/.audit:
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r $<
	touch $@

$(VENV)/.ok: pyproject.toml requirements.lock
	@tools/environment.sh $(VENV)
	touch $@
