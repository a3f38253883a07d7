# Everything a clone can do. Each target makes the virtual environment first, and installs what it needs into it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo fleet-demo test check venv wheels clean

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

# The kernels are compiled with it, and anew when they change; where no compiler is, training falls back to torch.
$(VENV)/.ready: pyproject.toml constraints.txt CMakeLists.txt $(wildcard fedprune/native/src/*)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fedprune needs Python 3.11 or later")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[simulation,export,dev]'
	touch $@

# Zig's compiler has the C library of any Linux within it: 2.17 is of 2012, so that these run on all that came since.
wheels: venv  ## what is published, in dist/: the source distribution, and wheels of it for x86-64 and aarch64 Linux
	rm -rf dist
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt ziglang
	$(BIN)/python -c 'from scikit_build_core.build import build_sdist; build_sdist("dist")'
	zig=$$($(BIN)/python -c 'import ziglang; print(ziglang.__path__[0])')/zig; for cpu in x86_64 aarch64; do \
		LDFLAGS=-s $(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps -w dist dist/*.tar.gz \
			-C wheel.tags=py3-none-manylinux_2_17_$$cpu -C install.strip=false \
			-C cmake.define.CMAKE_SYSTEM_NAME=Linux -C cmake.define.CMAKE_SYSTEM_PROCESSOR=$$cpu \
			-C "cmake.define.CMAKE_CXX_COMPILER=$$zig;c++;-target;$$cpu-linux-gnu.2.17" || exit 1; \
	done

clean:  ## remove the environment and what tools left behind; runs stay
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
