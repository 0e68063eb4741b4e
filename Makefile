# Each goal does all its own set-up: `make demo` and `make test` work on a fresh machine.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: install demo test test-slow recipes check format

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all]' --group dev
# The last is a reference of the tests; it forbids versions of numpy, pandas and rich that it runs with.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps panoptica plotly ruamel.yaml
	touch $@

demo: install
	$(BIN)/backsplit demo

test: install
	$(BIN)/python -m pytest -m "not slow"

test-slow: install
	$(BIN)/python -m pytest -m slow

recipes: install
	$(BIN)/python benchmarks/paper_recipes.py backsplit-recipes docs/recipes-run.md

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/ty check
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
