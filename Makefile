# Everything here works from a fresh clone with Python 3.11 and pip: `.venv` is made from requirements.lock.

PYTHON ?= python3.11
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: help demo test check format slow bench lock clean

help:
	@echo "make demo    the whole job on a year of flights, with a plot"
	@echo "make test    everything that is not slow"
	@echo "make check   format, lint, types, import contracts, unit tests (under a minute)"
	@echo "make slow    the tests that take minutes"
	@echo "make bench   benchmarks, ratios side by side"
	@echo "make lock    resolve pyproject.toml into requirements.lock again"

$(INSTALLED): requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# passive: scikit-learn's threads give way while they wait for each other; others may need the cores.
demo: $(INSTALLED)
	OMP_WAIT_POLICY=passive PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m examples.flights.demo

test: $(INSTALLED)
	$(BIN)/python -m pytest

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/unit

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

slow: $(INSTALLED)
	HYPOTHESIS_PROFILE=slow $(BIN)/python -m pytest -m slow --timeout 3600

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks

# The lock names versions and hashes only, never the place they came from.
# The second lock is what a service needs, at the first one's versions.
LOCK := uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes --fork-strategy fewest \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

lock:
	$(LOCK) --upgrade --all-extras --output-file requirements.lock
	$(LOCK) --extra postgres --extra streaming --extra avro --constraint requirements.lock --output-file requirements-serve.lock

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
