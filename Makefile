# `make demo` and `make test` are the two commands of the README; each sets up what it needs.
.DEFAULT_GOAL := help
SHELL := /bin/bash

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LAB_TOOLS := debootstrap iproute2 util-linux openssh-client ca-certificates
TEST_TOOLS := chromium fonts-dejavu-core busybox mksh tcsh openssh-server postgresql sudo
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# Folders of installed packages that nothing here imports: half of it all.
UNUSED := tests|testing|sympy|networkx|mpmath|scipy|altair|narwhals|rich_rst|pip|setuptools|mypy|mypyc|apprise
UNUSED := /($(UNUSED)|graphql|cfnlint|dateparser|lexers|stepfunctions)/

# Where it is set, every process of a run would compile this project anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test soak check lint types imports style collect unit bench ui lock clean

help:
	@echo "make demo    take over a practice account on this machine (KEEP=1 leaves it running)"
	@echo "make ui      open the run history of the demo"
	@echo "make test    all checks and tests; make check is the quick part, without server or lab"
	@echo "make soak    a thousand hosts and killed workers on a real Prefect server; repairs from every first state"
	@echo "make bench   timings, call counts, and a run over up to 10,000 hosts, which must keep the promises: 20 minutes"
	@echo "make setup   only install; make clean removes what was installed and made here"

# Debian's packages are fetched while Python's are compiled.
setup:
	@$(MAKE) --no-print-directory -j 2 $(VENV)/.installed $(VENV)/.test-tools

demo:
	@$(MAKE) --no-print-directory -j 2 $(VENV)/.installed $(VENV)/.lab-tools
	@scripts/setup.sh root "The demo's lab"
	@$(BIN)/python -m lab.demo

ui: $(VENV)/.installed
	@$(BIN)/haltuun ui

test: setup
	@$(MAKE) --no-print-directory -j 2 --output-sync types imports style collect
	@scripts/setup.sh root "The tests' lab"
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not soak"

# A crowd of a thousand; a worker killed in each stage, and a run that is stopped; on real hosts repairs for any
# two of cause, init and first state, runs killed in the middle in every way, and at each step of every script that
# changes a host; runs and undos killed at each AWS call that changes patch, backup or an account's roles; the other
# scenarios. An hour, which `make test` has no room for: it has one or a few of each.
soak: setup
	@$(BIN)/python -m pytest -m soak

check: $(VENV)/.installed lint unit

lint: $(VENV)/.installed
	@$(MAKE) --no-print-directory -j 2 --output-sync types imports style

types: $(VENV)/.installed
	@$(BIN)/mypy

imports: $(VENV)/.installed
	@$(BIN)/lint-imports

# Compiles the tests' modules once, beside mypy, and not three workers at once. What is wrong with them the tests tell.
collect: $(VENV)/.installed
	@$(BIN)/python -m pytest --collect-only --quiet -m "not soak" >/dev/null || true

style: $(VENV)/.installed
	@$(BIN)/ruff check .
	@git ls-files -z --cached --others --exclude-standard '*.sh' .ci/run | xargs -0 -r $(BIN)/shellcheck

unit: $(VENV)/.installed
	@$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder -m "not lab and not server and not postgres and not slow"

bench: $(VENV)/.installed $(VENV)/.lab-tools
	@$(BIN)/python -m bench

# These settings keep this machine's package sources out of the lock.
lock: $(VENV)/.installed
	@$(PIP) install 'pip-tools>=7.5,<8'
	@env -u PIP_FIND_LINKS -u PIP_EXTRA_INDEX_URL PIP_CONFIG_FILE=/dev/null $(BIN)/pip-compile --quiet \
		--all-extras --allow-unsafe --generate-hashes --strip-extras --no-header --no-annotate \
		--no-config --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
		--output-file requirements.lock pyproject.toml

clean:
	@if [ -x $(BIN)/haltuun ]; then $(BIN)/haltuun lab down || true; $(BIN)/haltuun ui --stop || true; fi
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
	@rm -rf $(VENV) .haltuun .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis *.egg-info

$(VENV)/bin/python:
	@scripts/setup.sh venv $(PYTHON) $(VENV)

# Compiled here once: where PYTHONDONTWRITEBYTECODE is set, every start would compile Prefect anew (10-20 s).
$(VENV)/.installed: requirements.lock pyproject.toml | $(VENV)/bin/python
	@echo "Installing the Python packages of requirements.lock ..."
	@awk '/^[^ ]/ { own = /^pip==/ } own' requirements.lock | $(PIP) install --require-hashes -r /dev/stdin
	@$(PIP) install --no-compile --require-hashes -r requirements.lock
	@$(PIP) install --no-compile --no-deps --no-build-isolation -e .
	@$(BIN)/python -m compileall -q -j 0 -x '$(UNUSED)' $(VENV)/lib >/dev/null || true
	@touch $@

$(VENV)/.lab-tools: Makefile | $(VENV)/bin/python
	@scripts/setup.sh packages $(LAB_TOOLS)
	@touch $@

$(VENV)/.test-tools: Makefile | $(VENV)/bin/python
	@scripts/setup.sh packages $(LAB_TOOLS) $(TEST_TOOLS)
	@touch $(VENV)/.lab-tools $@
