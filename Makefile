# Every target makes its own environment in .venv; `make demo` and `make test` are all one needs.
PYTHON ?= python3
BIN := .venv/bin
CORPUS ?= pipelines/demo/corpus

MINUTES ?= 30
SEED ?= 0

.PHONY: demo test test-processors lint format docs bench soak clean

demo: .venv/.installed-report
	$(BIN)/python pipelines/demo/run.py

test: .venv/.installed-test
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

test-processors: .venv/.installed-test
	$(BIN)/python tests/processors.py $(SETTINGS)

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/.installed-docs
	$(BIN)/python docs/make_cli.py
	$(BIN)/mkdocs build --strict

bench: .venv/.installed-test
	$(BIN)/python pipelines/benchmark/quality.py --data_dir $(CORPUS)

soak: .venv/.installed-test
	$(BIN)/python -m pipelines.soak.run --minutes $(MINUTES) --seed $(SEED)

clean:
	rm -rf .venv out site

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "gmmpipe needs Python 3.11 or later, and '$(PYTHON)' is: $$($(PYTHON) --version 2>&1)." \
	    "Try: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "'$(PYTHON)' has no venv module. On Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "Making .venv (about 6 GB with torch, some minutes on a slow line) ..."
	$(PYTHON) -m venv .venv

.venv/.installed-%: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	@touch $@
