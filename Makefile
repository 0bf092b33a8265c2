# make train: environment, build and a first training run; make test: environment, build and all tests.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

SOURCES := $(shell find csrc -name '*.[ch]' -o -name '*.def')
WARNINGS := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Werror

.PHONY: train test lint format clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.built: $(BIN)/python pyproject.toml ane_train/_build.py $(SOURCES)
	$(BIN)/pip install -q -e .
	touch $@

$(VENV)/.tested: $(VENV)/.built
	$(BIN)/pip install -q torch==2.13.0
	$(BIN)/pip install -q -e '.[test]'
	touch $@

$(VENV)/.linted: $(BIN)/python
	$(BIN)/pip install -q clang-format==23.1.5 'mypy>=1.15' 'ruff>=0.11'
	touch $@

train: $(VENV)/.built
	$(BIN)/ane-train

test: $(VENV)/.tested
	$(BIN)/python -m pytest

lint: $(VENV)/.built $(VENV)/.linted
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $$(find csrc tests -name '*.[ch]')
	for source in $$(find csrc/base csrc/cpu csrc/engine csrc/train -name '*.c'); do \
		$(CC) -std=gnu11 $(WARNINGS) -Icsrc -fsyntax-only $$source || exit 1; done

format: $(VENV)/.linted
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(find csrc tests -name '*.[ch]')

clean:
	rm -rf $(VENV) build dist *.egg-info ane_train/_native*.so
