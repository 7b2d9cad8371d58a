# Everything runs in .venv; `make PYTHON=python3.12 …` picks another interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CPP = $(shell find cpp -name '*.cpp' -o -name '*.hpp' -o -name '*.h' -o -name '*.c')
# What pip unpacks lies beside the environment and goes with it, also after a failure; its cache of wheels is left out.
PIP = mkdir -p $(VENV)/tmp && trap 'rm -rf $(VENV)/tmp' EXIT && \
	TMPDIR=$(CURDIR)/$(VENV)/tmp $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-cache-dir
FITS := 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))'

.DEFAULT_GOAL := help
.PHONY: help demo docs test test-python test-fast test-cpp web test-web demo-bundle dist check lint types format bench bench-all clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# An environment whose Python is too old or gone is made anew.
ifneq ($(shell $(BIN)/python -c $(FITS) 2>/dev/null && echo fits),fits)
.PHONY: $(VENV)/pyvenv.cfg
endif
$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c $(FITS) || { echo "scclip-rt needs Python 3.11 or newer with venv; $(PYTHON) is \
	$$($(PYTHON) --version 2>&1). Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@$(PYTHON) -m venv --clear $(VENV)

$(VENV)/.runtime: pyproject.toml $(VENV)/pyvenv.cfg
	@echo "installing the runtime into $(VENV): 0.3 GB"
	@$(PIP) --editable .
	@touch $@

# torch comes first, by itself: its libraries are unpacked and their archives gone before the rest arrives.
$(VENV)/.dev: pyproject.toml $(VENV)/pyvenv.cfg
	@echo "installing everything into $(VENV): 8 GB, of which torch and its CUDA libraries take 5.5"
	@$(PIP) torch
	@$(PIP) --editable '.[export,dev]'
	@touch $(VENV)/.runtime $@

$(VENV)/.docs: pyproject.toml $(VENV)/pyvenv.cfg
	@$(PIP) --editable '.[docs]'
	@touch $(VENV)/.runtime $@

demo: $(VENV)/.runtime  ## segment the shipped scene with the packaged model (installs the runtime, no torch)
	$(BIN)/scclip segment demo scclip_rt/demo/scene.png --output demo-output --force

test: test-python test-cpp  ## install everything and run all tests, C++ included

test-python: $(VENV)/.dev  ## all tests but those of C++, on every CPU
	$(BIN)/python -m pytest -n auto --dist loadfile

test-fast: $(VENV)/.dev  ## the tests without the full-size models
	$(BIN)/python -m pytest -m 'not slow'

test-cpp: $(VENV)/.dev  ## build the C++ library, test it against Python, build the consumer project
	bash cpp/test.sh $(VENV)

web/node_modules/.package-lock.json: web/package-lock.json
	@node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' 2>/dev/null || { \
		echo "web/ needs Node 20 or newer with npm; found: $$(node --version 2>&1)" >&2; exit 2; }
	cd web && npm ci --no-audit --no-fund

web: web/node_modules/.package-lock.json  ## build the npm package and the page (web/dist; needs Node 20)
	cd web && npm run build

test-web: web/node_modules/.package-lock.json  ## types of web/, and its tests in Node and in browsers
	cd web && npm run types && npm test && npm run test:browser

docs: $(VENV)/.docs  ## build the documentation into build/site; a broken link is an error
	$(BIN)/zensical build --strict

demo-bundle: $(VENV)/.dev  ## export the packaged demo model again from its checkpoint
	$(BIN)/scclip-export --checkpoint benchmarks/demo/demo_clip.safetensors --dynamic-grid --int8 \
		--mean 122.771,116.746,104.094 --std 68.501,66.632,70.323 \
		--vocabulary scclip_rt/demo/classes.txt --output scclip_rt/demo.scclip --force

dist: $(VENV)/.docs  ## wheel and sdist, checked: each installed in an empty environment segments the shipped scene
	rm -rf dist
	@$(PIP) build twine
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*
	for file in dist/*; do \
		rm -rf build/empty && $(BIN)/python -m venv build/empty && \
		build/empty/bin/python -m pip install --quiet --disable-pip-version-check "$$file" && \
		(cd build/empty && bin/scclip segment demo $(CURDIR)/scclip_rt/demo/scene.png --output out) || exit 1; \
	done

check: lint types test  ## what must pass before a commit

lint: $(VENV)/.dev  ## ruff: lint and format; clang-format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CPP)

types: $(VENV)/.dev  ## mypy, strict; the direction of imports
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev  ## let ruff and clang-format rewrite
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

bench: $(VENV)/.dev  ## one photo against the naive eager baseline
	$(BIN)/python -m benchmarks.cpu.photo

bench-all: $(VENV)/.dev  ## every CPU benchmark, tables and plots (half an hour, on a quiet machine)
	PATH="$(CURDIR)/$(BIN):$$PATH" bash benchmarks/cpu/all.sh

clean:  ## remove the environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build dist demo-output web/node_modules web/build web/dist
