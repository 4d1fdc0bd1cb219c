# make demo and make test bring their own environment: they need Python 3.10 or newer, and make it in $(VENV).

VENV ?= .venv
PYTHON ?= python3
PY := $(VENV)/bin/python

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

THREADS := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE TOKENIZERS_PARALLELISM=false HF_HUB_DISABLE_TELEMETRY=1
DEMO := outputs/demo
# tests run side by side, file by file in the order of tests/conftest.py: xdist's own puts last what takes longest. Each
# process takes 2.5 GB with the one that its programs are forked from. Bytecode is kept: everything is imported many times
TEST_PROCESSES ?= 2
PYTEST := env -u PYTHONDONTWRITEBYTECODE $(THREADS) $(PY) -m pytest
# offline, and with caches of its own: nothing of the user's is read or written
DEMO_ENV := env -u HF_HUB_CACHE -u HF_DATASETS_CACHE -u HF_MODULES_CACHE -u HF_EVALUATE_CACHE \
    HF_HOME="$(CURDIR)/$(DEMO)/hf_home" HF_HUB_OFFLINE=1 $(THREADS)
# make lock holds these two and takes the newest of everything else
LOCK_HOLD ?= torch==2.14.1 torchvision==0.29.1

.PHONY: help demo demo-hub quick test coverage soak evidence evidence-quick style docs lock venv clean distclean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: venv  ## the whole product on this machine, offline: images, adapter, augmented dataset (outputs/demo)
	@$(PY) -m sgdmix_hub.cli demo --output_dir $(DEMO)

demo-hub: venv  ## after make demo: publish it to a Hub on this machine, load it back by tag, make it again
	@$(DEMO_ENV) $(PY) -m sgdmix_hub.demo.publish_birds --config $(DEMO)/run.yaml

quick: venv  ## the tests for every change: those that take seconds
	@$(PYTEST) -m "not slow and not soak and not gpu" --numprocesses $(TEST_PROCESSES) --dist loadfile -q \
	    --no-loadscope-reorder

test: venv  ## all tests that need neither a GPU nor hours
	@$(PYTEST) -m "not soak and not gpu" --numprocesses $(TEST_PROCESSES) --dist loadfile \
	    --no-loadscope-reorder

TESTS ?= tests
coverage: venv  ## what make test runs, with coverage, launched programs included (TESTS=folder: only that folder)
	@$(PYTEST) $(TESTS) -m "not soak and not gpu" --numprocesses $(TEST_PROCESSES) --dist loadfile \
	    --no-loadscope-reorder --cov --cov-report=term:skip-covered

SOAK_RESULTS ?= build/soak.json
soak: venv  ## the long runs under kills and faults (SOAK_RESULTS: the figures of those in stores)
	@SOAK_RESULTS="$(abspath $(SOAK_RESULTS))" $(PYTEST) -m soak

evidence: venv  ## methods against tasks, and the paper's ablations: many hours, continued by the same command
	@env $(THREADS) $(PY) benchmarks/evidence.py

evidence-quick: venv  ## six methods under background shift, two seeds (outputs/evidence-quick)
	@env $(THREADS) $(PY) benchmarks/evidence.py --quick --work_dir outputs/evidence-quick --results outputs/evidence-quick \
	    --page outputs/evidence-quick/evidence.md

style: venv  ## ruff: rules and format; import-linter: no folder imports from above itself; ty: types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(VENV)/bin/lint-imports --no-logo --no-cache
	$(VENV)/bin/ty check --python $(VENV) sgdmix_hub

docs: venv  ## the site of the docs (build/site), strictly: a broken link is an error
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	$(PY) -m mkdocs build --strict

# The stamp says what the environment was made from and which checkout it serves. An environment with another stamp, or with
# none, is completed in place: VENV may name one that exists already. The lock is for Linux x86_64 with Python 3.11; any
# other interpreter gets the ranges of pyproject.toml.
venv:  ## the environment, made once (VENV=folder, PYTHON=interpreter)
	@[ -x $(PY) ] || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || \
	    { echo "error: $(PYTHON) is missing or older than Python 3.10: name another with PYTHON=" >&2; exit 1; }
	@stamp="$(VENV)/sgdmix_hub.stamp"; log="$(VENV)/install.log"; \
	wanted="$$(cat requirements.lock pyproject.toml | sha256sum | cut -c1-64) $(CURDIR)"; \
	if [ -x $(PY) ] && [ "$$(cat "$$stamp" 2>/dev/null)" = "$$wanted" ]; then exit 0; fi; \
	if $(PY) -m pip --version > /dev/null 2>&1; then echo "Completing the environment in $(VENV)"; \
	else echo "Making the environment in $(VENV): about 6.5 GB, several minutes, once"; $(PYTHON) -m venv $(VENV); fi; \
	case "$$($(PY) -c 'import platform as p; print(p.system(), p.machine(), *p.python_version_tuple()[:2])')" in \
	    "Linux x86_64 3 11") packages="-r requirements.lock" ;; \
	    *) packages="-e .[dev]"; echo "  requirements.lock is for Linux x86_64 with Python 3.11: taking the ranges of pyproject.toml" ;; \
	esac; \
	install="$(PY) -m pip install --disable-pip-version-check --progress-bar off"; \
	{ $$install $$packages && $$install --no-deps --no-build-isolation -e .; } 2>&1 | tee "$$log" | awk \
	    '/^Collecting / && ++collected % 25 == 0 { print "  " collected " packages"; fflush() } \
	     /^Installing collected packages: .*,/ { print "  installing"; fflush() }' || \
	    { echo "error: pip failed, the end of $$log:" >&2; grep -v '^Requirement already' "$$log" | tail -n 15 >&2; exit 1; }; \
	echo "$$wanted" > "$$stamp"

lock:  ## requirements.lock anew, from a fresh environment
	@fresh="$$(mktemp -d)"; trap 'rm -rf "$$fresh"' EXIT; pip="$$fresh/bin/python -m pip --disable-pip-version-check"; \
	echo "Resolving pyproject.toml in a fresh environment: about 6.5 GB, several minutes"; \
	$(PYTHON) -m venv "$$fresh"; \
	$$pip install --quiet -e '.[dev]' $(LOCK_HOLD); \
	{ sed '/^[^#]/,$$d' requirements.lock; $$pip freeze --all --exclude pip --exclude sgdmix_hub; } > "$$fresh/lock"; \
	cp "$$fresh/lock" requirements.lock; \
	echo "requirements.lock: $$(grep -c '==' requirements.lock) packages"

clean:  ## removes what demo, tests and builds left, not the environment
	rm -rf $(DEMO) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find sgdmix_hub scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## removes the environment too
	rm -rf $(VENV)
