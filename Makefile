# `make` alone prints what to type first.
.DEFAULT_GOAL := help
.PHONY: help demo test lint lint-style lint-types lint-editor lint-thresholds bench soak docs clean

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
EVENTS ?= 200000
DATA   ?=
POLICY ?= uwfq
NAME   ?= pipeline
ROOM   ?= mutants
MINUTES ?= 10
PYTEST_ARGS ?=

# Real data for tests and benchmarks, where a checkout has it beside itself; tests that need it are skipped without.
ifneq ($(wildcard ../shared/datasets),)
export HEADRACE_DATASETS ?= $(abspath ../shared/datasets)
endif

# A strict editable install links each module, so it is renewed when the list of modules or the plugin's source changes,
# without isolation, so that the plugin is compiled against the Spark that was installed before.
MODULES := $(shell { find jobs scheduler storage streaming -name '*.py'; cat scheduler/jvm/src/headrace/scheduler/*.java; } | LC_ALL=C sort | cksum | cut -d' ' -f1)
# setuptools warns at length about strict editable installs, which are meant.
INSTALL := PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
EDITABLE := -C editable_mode=strict -e

help:
	@echo "headrace: Kafka streams, contracts, online learners and a column store, in one Spark application"
	@echo
	@echo "  make demo            the main job, end to end, on generated ad events (EVENTS=$(EVENTS), DATA=path for a real file,"
	@echo "                       POLICY=none for Spark's own order of users' jobs)"
	@echo "  make test            every test, after the linters"
	@echo "  make lint            format, lint, types and the thresholds between rooms"
	@echo "  make bench NAME=…    one benchmark table (NAME=$(NAME))"
	@echo "  make soak ROOM=… MINUTES=…   the longer forms of a room's tests (storage, learners, streaming, scheduler, jobs, mutants)"
	@echo "  make docs            write the generated reference pages anew"
	@echo "  make clean           remove what was built; your data under .headrace/ stays"
	@echo
	@echo "Needs Python 3.11 to 3.13, a JDK 17 and make, on Linux. Type \`make demo\` first."

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not ((3, 11) <= sys.version_info[:2] <= (3, 13)))' || \
	  { echo "headrace needs Python 3.11 to 3.13; $(PYTHON) is $$($(PYTHON) --version). Say make PYTHON=…" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --upgrade pip setuptools

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing headrace[stream,torch]: the first time this fetches some gigabytes, since torch brings its GPU libraries"
	$(INSTALL) $(EDITABLE) '.[stream,torch]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) $(EDITABLE) '.[all,dev]'
	@touch $@ $(VENV)/.demo

$(VENV)/.modules-$(MODULES): | $(VENV)/.demo
	$(INSTALL) --no-deps --no-build-isolation $(EDITABLE) .
	@rm -f $(VENV)/.modules-*; touch $@

demo: $(VENV)/.demo $(VENV)/.modules-$(MODULES)
	@$(BIN)/headrace demo --events $(EVENTS) --policy $(POLICY) $(if $(DATA),--data '$(DATA)')

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

lint: $(VENV)/.dev $(VENV)/.modules-$(MODULES)
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target lint-editor lint-types lint-style lint-thresholds

lint-style:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

lint-types:
	$(BIN)/mypy

lint-editor:
	$(BIN)/basedpyright

lint-thresholds:
	$(BIN)/lint-imports --no-logo

bench: $(VENV)/.dev $(VENV)/.modules-$(MODULES)
	$(BIN)/python -m benchmarks $(NAME)

soak: $(VENV)/.dev $(VENV)/.modules-$(MODULES)
	$(BIN)/python -m tests.soak --room $(ROOM) --minutes $(MINUTES)

docs: $(VENV)/.dev $(VENV)/.modules-$(MODULES)
	$(BIN)/python docs/generate.py

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache $(VENV)
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
