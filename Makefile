# Each target sets up what it needs in .venv. PYTHON names the interpreter that makes it.
PYTHON ?= python3
VENV := .venv
VENV_LOWEST := .venv-lowest
BIN := $(VENV)/bin

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-lowest lint types docs bench dist clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

demo: $(VENV)/.demo ## train a small U-Net on generated rooms, print its metrics, draw demo/figure.png
	$(BIN)/python examples/surface_normals/demo.py --out demo

test: $(VENV)/.dev ## the tests, with the examples in docstrings and docs
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(VENV)/.dev ## the tests marked slow
	$(BIN)/python -m pytest -m slow

test-lowest: $(VENV_LOWEST)/.installed ## the tests with the oldest versions that pyproject.toml allows
	$(VENV_LOWEST)/bin/python -m pytest -m "not slow"

lint: $(VENV)/.dev ## format and lint, checked only; `.venv/bin/ruff format .` rewrites
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev ## strict type checking of src/
	$(BIN)/mypy

docs: $(VENV)/.dev ## the documentation, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(VENV)/.bench ## every benchmark, each with its peer beside it
	$(BIN)/python benchmarks/run_all.py

dist: $(VENV)/.dev ## wheel and sdist in dist/, of the version that git's tags give
	@$(BIN)/python -m pip install -qq --constraint constraints.txt --editable ".[release]"
	rm -rf dist
	$(BIN)/python -m build --quiet
	$(BIN)/python -m twine check --strict dist/*

clean: ## remove what the targets wrote, except the environments and runs/
	rm -rf build dist site demo .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +

# pip shows errors alone (-qq).
# Of the two environments' stamps, the larger one stands for the smaller.
$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "setting up $(VENV) (some minutes the first time: PyTorch is large)"
	@$(BIN)/python -m pip install -qq --constraint constraints.txt --editable ".[train,offline]"
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "setting up $(VENV) for development (some minutes the first time: PyTorch is large)"
	@$(BIN)/python -m pip install -qq --constraint constraints.txt --editable ".[train,offline,exr,datasets,onnx,demo,docs,dev]"
	@touch $@ $(VENV)/.demo

$(VENV)/.bench: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "setting up $(VENV) for the benchmarks (some minutes the first time: PyTorch is large)"
	@$(BIN)/python -m pip install -qq --constraint constraints.txt --editable ".[train,offline,bench]"
	@touch $@

$(VENV_LOWEST)/.installed: pyproject.toml constraints-lowest.txt | $(VENV_LOWEST)/bin/pip
	@echo "setting up $(VENV_LOWEST) (some minutes the first time: PyTorch is large)"
	@$(VENV_LOWEST)/bin/python -m pip install -qq --constraint constraints-lowest.txt \
		--editable ".[train,offline,exr,datasets,onnx,dev]"
	@touch $@

# pip is the last thing that venv writes, so an interrupted attempt is made again.
$(BIN)/pip $(VENV_LOWEST)/bin/pip:
	@command -v "$(PYTHON)" >/dev/null || { \
		echo "make: '$(PYTHON)' is not on this machine; install Python 3.11 or newer, or name one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; \
		exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "make: $$("$(PYTHON)" --version) is too old, wanted 3.11 or newer; name another: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; \
		exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "make: '$(PYTHON)' has no venv module; install it (on Debian and Ubuntu: apt install python3-venv)" >&2; \
		exit 1; }
	@"$(PYTHON)" -m venv $(patsubst %/bin/pip,%,$@)
