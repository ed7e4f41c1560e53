PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

unexport PYTHONDONTWRITEBYTECODE # or each process that a test starts compiles all of Graft anew

.PHONY: setup demo test test-slow lint bench docs clean

setup: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Graft needs Python 3.11 or newer; try make PYTHON=python3.11 setup" if sys.version_info < (3, 11) else 0)'
	@echo "Installing the pinned dependencies into $(VENV), once; this takes two to three minutes."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[games,dev]'
	@touch $@

demo: setup
	$(BIN)/graft run

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile --durations=10 # a file in one process: what its tests share is made once

test-slow: setup
	$(BIN)/python -m pytest -m slow

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff check --preview --select PLW1514 graft envs agents transfer experiments # files are UTF-8 whatever the locale
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy

bench: setup
	$(BIN)/graft bench envs

docs: $(VENV)/docs
	$(BIN)/python -m mkdocs build --strict

$(VENV)/docs: $(VENV)/installed
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[docs]'
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build site
