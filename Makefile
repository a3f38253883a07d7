# Everything a clone can do. Each target makes the virtual environment first, and installs what it needs into it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo fleet-demo test check venv clean

demo: venv  ## a federated FedTiny run on handwritten digits, to a tiny model
	$(BIN)/fedprune simulate simulations/digits.toml --fresh

fleet-demo: venv  ## a server and three devices with their own pictures, as processes over TLS on this machine
	$(BIN)/python -m simulations.fleet_demo

test: venv  ## the whole test suite; in order, so that the long tests, which mostly wait, do not come last
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

check: venv  ## style, types, import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

venv: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fedprune needs Python 3.11 or later")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[simulation,export,dev]'
	touch $@

clean:  ## remove the environment and what tools left behind; runs stay
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
