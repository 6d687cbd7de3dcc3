# Two commands matter: `make demo` and `make test`. Both set up what they need in .venv.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin
WORKERS ?= 2
# One more under the frameworks, whose longest tests wait for other processes most of the time.
# They fetch tests one by one, in the order of tests/integrations/conftest.py.
FRAMEWORK_WORKERS ?= 3

.PHONY: help setup demo bench check test frameworks threat format lint types fast vectors clean

help:
	@echo "make demo    18 hospitals compute a survival analysis and train a model, securely"
	@echo "make test    everything: make check, the slow tests, and those under the frameworks"
	@echo "make check   format, lint, types, layers, fast tests, documentation examples"
	@echo "make frameworks  the tests under Flower, Substra, NVIDIA FLARE and declearn"
	@echo "make bench   all measurements, beside public peers and the hardware's limits (about 25 minutes)"
	@echo "make threat  every attack on every protocol, and the pages made of it (about half an hour)"
	@echo "make vectors write protocols/vectors/ and protocols/specs/rules.md anew"
	@echo "make clean   remove .venv and caches"

# The stamp is newer than pyproject.toml once everything that it names is installed.
$(VENV)/stamp: pyproject.toml
	@echo "==> setting up $(VENV) (a minute or two the first time)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=")'
	@test -x $(RUN)/python || $(PYTHON) -m venv $(VENV)
	@$(RUN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

setup: $(VENV)/stamp

demo: $(VENV)/stamp
	@echo "==> secagg demo"
	@$(RUN)/secagg demo

# The peers bring hundreds of dependencies, so they get an environment of their own within .venv.
$(VENV)/bench/stamp: pyproject.toml | $(VENV)/stamp
	@echo "==> setting up $(VENV)/bench with the peers"
	@test -x $(VENV)/bench/bin/python || $(RUN)/python -m venv $(VENV)/bench
	@$(VENV)/bench/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@

bench: $(VENV)/bench/stamp
	@echo "==> secagg bench"
	@$(VENV)/bench/bin/secagg bench --out bench-output

# What is committed is a full run of a clean working copy, and the pages that are made of it.
threat: $(VENV)/stamp
	@echo "==> secagg attack matrix"
	@$(RUN)/secagg attack matrix --out attack-output
	@cp attack-output/matrix.json benchmarks/results/threat-matrix.json
	@$(RUN)/secagg attack report benchmarks/results/threat-matrix.json --out attack-output/report.html --pages docs

# The frameworks bring servers, schedulers and pinned versions of half the world; the core is
# tested without them, and they with it, in an environment of their own within .venv.
$(VENV)/frameworks/stamp: pyproject.toml | $(VENV)/stamp
	@echo "==> setting up $(VENV)/frameworks with Flower, Substra, NVIDIA FLARE and declearn (some minutes)"
	@test -x $(VENV)/frameworks/bin/python || $(RUN)/python -m venv $(VENV)/frameworks
	@$(VENV)/frameworks/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[frameworks]'
	@touch $@

frameworks: $(VENV)/frameworks/stamp
	@echo "==> tests under the frameworks"
	@SECAGG_FRAMEWORKS=required $(VENV)/frameworks/bin/python -m pytest -q \
	  -n $(FRAMEWORK_WORKERS) --maxschedchunk 1 \
	  tests/integrations/flower tests/integrations/substra tests/integrations/flare \
	  tests/integrations/declearn tests/bench/test_frameworks.py

format: $(VENV)/stamp
	@echo "==> format (ruff format --check)"
	@$(RUN)/ruff format --check --quiet .

lint: $(VENV)/stamp
	@echo "==> lint (ruff check)"
	@$(RUN)/ruff check --quiet .

types: $(VENV)/stamp
	@echo "==> types (mypy --strict)"
	@$(RUN)/mypy

fast: $(VENV)/stamp
	@echo "==> fast tests, layers and documentation examples"
	@$(RUN)/python -m pytest -q -n $(WORKERS) -m "not slow"

check: format lint types fast

test: check
	@echo "==> slow tests"
	@$(RUN)/python -m pytest -q -n $(WORKERS) -m slow
	@$(MAKE) --no-print-directory frameworks

vectors: $(VENV)/stamp
	@$(RUN)/python tests/support/make_vectors.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
