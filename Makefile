# undertone. Every target sets up what it needs, in environments of its own: .venv (tests and tools), .venv-demo.
#
#   make demo                  recognise emotion in the recordings in demo/ (base install, no torch)
#   make demo CLIP=my.wav      ... in your own clip or folder
#   make test                  all tests; those on real corpora run when the corpora are there
#
# Variables: PYTHON (an interpreter, 3.11 to 3.13), TORCH (what pip installs as torch; may carry --index-url),
# TESTS (arguments for pytest), UNDERTONE_DATA (the folder that holds RAVDESS, CREMA-D, ...),
# UNSEEN_SHARE (of a system's epochs that the table's runs on new speakers take).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint style types imports chromium docs wheel base readme table clean

VENV := .venv
DEMO_VENV := .venv-demo
BASE_VENV := build/base
CLIP ?= demo
TESTS ?=
# Installed before anything that depends on torch: the range in pyproject.toml is then met already, and pip has
# no reason to fetch a newer build.
TORCH ?= torch==2.13.0
PIP := -m pip --quiet --quiet --disable-pip-version-check

# The first interpreter that runs, has the right version and can make environments. `python3` comes first: it is
# the one the user has chosen. Each is tried, because pyenv's shims exist without being usable.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python; do \
	"$$python" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
		>/dev/null 2>&1 && { echo "$$python"; break; }; done)

define require_python
	@test -n "$(PYTHON)" || { \
		echo "undertone needs Python 3.11, 3.12 or 3.13 with its venv module, and none was found."; \
		echo "Install one (Debian, Ubuntu: apt install python3 python3-venv) or name one: make PYTHON=/path/to/python3.12 ..."; \
		exit 1; } >&2
endef

help: ## this list
	@echo "undertone: emotion recognition in speech"
	@echo
	@sed -nE 's/^([a-z]+):[^#]*## (.*)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18

demo: $(DEMO_VENV)/installed ## recognise emotion in the bundled recordings, or in CLIP=my.wav
	@echo "undertone predict $(CLIP)"
	@$(DEMO_VENV)/bin/undertone predict "$(CLIP)"

test: $(VENV)/installed ## all tests (some: TESTS='tests/test_audio.py -x')
	@$(VENV)/bin/pytest --durations=10 $(TESTS)

lint: style types imports ## all three of the next ones

style: $(VENV)/installed ## ruff alone: lint and format
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .

types: $(VENV)/installed ## pyright alone
	@$(VENV)/bin/pyright --pythonpath $(VENV)/bin/python

imports: $(VENV)/installed ## import-linter alone: who may import whom
	@$(VENV)/bin/lint-imports

chromium: ## the browser of the page's tests: Debian's, installed where that is possible and it is missing
	@command -v chromium google-chrome >/dev/null || { \
		test "$$(id -u)" = 0 && command -v apt-get >/dev/null || { \
			echo "no chromium, and no right to install it: apt install chromium, or name one in CHROMIUM" >&2; exit 1; }; \
		apt-get update --quiet --quiet && \
		DEBIAN_FRONTEND=noninteractive apt-get install --quiet --quiet --yes --no-install-recommends chromium >/dev/null; }
	@command -v chromium google-chrome

docs: $(VENV)/installed ## the documentation, built strictly into site/
	@NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict
	@echo "documentation: site/index.html"

wheel: $(VENV)/installed ## dist/*.whl, its size and contents checked
	@rm -rf dist
	@$(VENV)/bin/python $(PIP) wheel --no-deps --wheel-dir dist .
	@$(VENV)/bin/python scripts/check_wheel.py dist/*.whl

base: wheel ## the wheel alone in a clean environment: no torch, the command works, the use floor's tests pass
	$(require_python)
	@$(PYTHON) -m venv --clear $(BASE_VENV)
	@$(BASE_VENV)/bin/python $(PIP) install dist/*.whl
	@$(BASE_VENV)/bin/python scripts/check_base_install.py demo
	@$(BASE_VENV)/bin/python $(PIP) install pytest hypothesis
	@$(BASE_VENV)/bin/python -m pytest --quiet tests --ignore=tests/lab -m "not lab and not slow and not corpus"

readme: $(VENV)/installed ## fill the generated parts of README and docs from the shipped model's card
	@$(VENV)/bin/python scripts/update_readme.py

# What is finished is read back from runs/, so this can be stopped and gone on with at any moment.
UNSEEN_SHARE ?= 0.4
table: $(VENV)/installed ## docs/results.md: every published system, under its own protocol and on new speakers (days)
	@$(VENV)/bin/undertone lab table --unseen-share $(UNSEEN_SHARE) --out docs/results.md

clean: ## remove the environments and everything built
	@rm -rf $(VENV) $(DEMO_VENV) build dist site .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	@find src tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment is brought up to date only when pyproject.toml is newer than its stamp.
$(VENV)/installed: pyproject.toml
	$(require_python)
	@echo "setting up $(VENV): the lab, the tests and the tools; a few minutes the first time ..."
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python $(PIP) install $(TORCH)
	@$(VENV)/bin/python $(PIP) install --editable ".[lab,web,vad,mic,dev]"
	@touch $@

$(DEMO_VENV)/installed: pyproject.toml
	$(require_python)
	@echo "setting up $(DEMO_VENV): the base install, without torch; about half a minute the first time ..."
	@test -x $(DEMO_VENV)/bin/python || $(PYTHON) -m venv $(DEMO_VENV)
	@$(DEMO_VENV)/bin/python $(PIP) install --editable .
	@touch $@
