PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# uv takes a fifth of pip's time; wheels that pip was told of are found by it as well
INSTALL = UV_FIND_LINKS="$${UV_FIND_LINKS-$$PIP_FIND_LINKS}" $(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt

unexport PYTHONDONTWRITEBYTECODE # or each process that a test starts compiles all of Graft anew

.PHONY: setup demo test test-slow fuzz lint bench docs clean

setup: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Graft needs Python 3.11 or newer; try make PYTHON=python3.11 setup" if sys.version_info < (3, 11) else 0)'
	@echo "Installing the pinned dependencies into $(VENV), once; this takes a minute or two."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt uv
	$(INSTALL) -e '.[games,dev]'
	@touch $@

demo: setup
	$(BIN)/graft run
	$(BIN)/graft run unseen

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=10 # small files come last: the processes end together

test-slow: $(VENV)/slow
	$(BIN)/python -m pytest -m slow

FUZZ ?= 5 # minutes, twice: by chance, and guided by the lines that are reached

fuzz: $(VENV)/fuzz
	$(BIN)/python tests/fuzz/search.py --minutes $(FUZZ)
	$(BIN)/python tests/fuzz/coverage_guided.py --minutes $(FUZZ)

$(VENV)/fuzz: $(VENV)/installed
	$(INSTALL) -e '.[fuzz]'
	@touch $@

$(VENV)/slow: $(VENV)/installed
	$(INSTALL) -e '.[mlflow,wandb,browser]'
	@touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff check --preview --select PLW1514 graft envs agents transfer experiments # files are UTF-8 whatever the locale
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy --num-workers 2

bench: setup
	$(BIN)/graft bench envs

docs: $(VENV)/docs
	$(BIN)/python -m mkdocs build --strict

$(VENV)/docs: $(VENV)/installed
	$(INSTALL) -e '.[docs]'
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build site
