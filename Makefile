# Tallybook. `make demo` and `make test` do all their set-up themselves; `make` lists the rest.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
SEED ?= 0
PACKAGES := metering entitlements rating billing_adapters tallybook

help: ## list what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY) ## make the environment .venv, and nothing else

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Tallybook needs Python 3.11 or newer; set PYTHON=")'
	@if command -v uv >/dev/null 2>&1; then \
	  uv venv --quiet --allow-existing --python $(PYTHON) .venv && \
	  uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[dev]'; \
	else \
	  $(PYTHON) -m venv .venv && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'; \
	fi
	@touch $@

demo: $(READY) ## record, invoice, reconcile and explain a month of a made-up company (under a minute)
	@$(BIN)/tallybook demo

test: $(READY) ## the default tests (about three minutes on two cores)
	$(BIN)/python -m pytest -n 3 --dist worksteal -m "not prove and not long"

long: $(READY) ## the tests that `make test` leaves out for their length (tests/long_tests.txt)
	$(BIN)/python -m pytest -n 3 --dist worksteal -m "long and not prove"

fast: $(READY) ## the tests without processes, servers and generated cases
	$(BIN)/python -m pytest -n 2 -m "not prove" --ignore=tests/crash --ignore=tests/properties --ignore=tests/conformance

prove: $(READY) ## the long proofs, bounded: hundreds of kills, many generated cases, new ones each time
	$(BIN)/python -m pytest -n 2 --dist worksteal -m prove --timeout 1200 -rA --hypothesis-profile search
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "hypothesis and not prove" --timeout 1200 --hypothesis-profile search

lint: $(READY) ## ruff: format and rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(READY) ## mypy, strict, on the packages
	$(BIN)/mypy

arch: $(READY) ## the one direction of imports
	$(BIN)/lint-imports

golden: $(READY) ## the cases that finance can read
	$(BIN)/python -m pytest tests/golden

conformance: $(READY) ## the numeric cases of the field, area by area
	$(BIN)/python -m pytest tests/conformance -s

bench: $(READY) ## all benchmarks; writes benchmarks/RESULTS.md
	$(BIN)/python -m benchmarks all --write

check: lint types arch test long ## all that CI runs

clean: ## remove caches and the demo, not the environment
	rm -rf tallybook-demo build dist .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

.PHONY: help setup demo test long fast prove lint types arch golden conformance bench check clean
