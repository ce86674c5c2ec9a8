# Needs Python >= 3.11 (with venv), git and make. Everything else is installed into .venv.
#
#   make run     install what it takes to run, then run the platform in the foreground (Ctrl-C stops it)
#   make test    install the test tools too, then pass all tests
#   make lint    ruff, mypy, import-linter
#   make schema  write the spec's JSON Schema in specs-template/ anew
#   make faults  break a running platform in every way the project knows, and see that users are served (an hour)
#   make lock    write requirements/*.txt anew from pyproject.toml
#   make clean   remove what these made; the state folder (.argus) stays
#
# PYTHON=... chooses the interpreter; ARGS=... is passed on to `argus up` or to pytest.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The first of these that is a CPython this project supports. pyenv's shims exist for versions that are not installed,
# so each is run rather than looked up.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' >/dev/null 2>&1 \
	&& { echo "$$python"; break; }; done)

UV_VERSION := 0.13.9
BIN := .venv/bin
UV := $(BIN)/uv
RUN_STAMP := .venv/.installed-run
DEV_STAMP := .venv/.installed-dev

# The CPU build of torch lies in a folder that pip knows (and uv by another name), or else comes from the index that
# --torch-backend knows. Bytecode is compiled once, here: without it every engine process spends 40 s more on imports.
INSTALL := $(if $(PIP_FIND_LINKS),UV_FIND_LINKS="$(PIP_FIND_LINKS)") \
	$(UV) pip install --python $(BIN)/python --compile-bytecode --constraint requirements/cpu.txt \
	$(if $(PIP_FIND_LINKS),,--torch-backend=cpu)

# vLLM's CPU build links to the one library that neither Python nor a wheel brings.
NUMA_CHECK := $(BIN)/python -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null || { \
	echo "The engine's CPU build needs libnuma; on Debian and Ubuntu: apt install libnuma1" >&2; exit 1; }

.PHONY: help
help:
	@sed -n 's/^#   \(make .*\)/\1/p' Makefile

.PHONY: run
run: $(RUN_STAMP)
	@exec $(BIN)/argus up --config "$${ARGUS_CONFIG:-dev.yaml}" $(ARGS)

.PHONY: test
test: $(DEV_STAMP)
ifdef ARGS
	@$(BIN)/python -m pytest $(ARGS)
else
	@$(BIN)/python -m pytest -m "not engine" -n auto --maxprocesses 4 --dist worksteal
	@$(BIN)/python -m pytest -m engine -n 2 --dist loadfile --no-loadscope-reorder
endif

.PHONY: lint
lint: $(DEV_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: schema
schema: $(RUN_STAMP)
	$(BIN)/argus schema > specs-template/schema/serving-spec.json
	$(BIN)/argus schema rules > specs-template/schema/argus.json

.PHONY: faults
faults: $(DEV_STAMP)
	@$(BIN)/python -m faults $(ARGS)

.PHONY: install
install: $(RUN_STAMP)

.PHONY: install-dev
install-dev: $(DEV_STAMP)

$(UV):
	@test -n "$(PYTHON)" || { echo "Argus needs Python 3.11, 3.12 or 3.13; say which with: make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "Making the virtual environment .venv with $$($(PYTHON) -V)"
	@$(PYTHON) -m venv .venv || { echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@touch $(UV)

$(RUN_STAMP): $(UV) pyproject.toml requirements/cpu.txt
	@echo "Installing Argus and its engine (a few minutes the first time)"
	@$(NUMA_CHECK)
	@$(INSTALL) -e '.[cpu]'
	@touch $@

$(DEV_STAMP): $(UV) pyproject.toml requirements/cpu.txt
	@echo "Installing Argus, its engine and the test tools (a few minutes the first time)"
	@$(NUMA_CHECK)
	@$(INSTALL) -e '.[cpu,dev]'
	@touch $(RUN_STAMP) $@

# One file serves Python 3.11 to 3.13. torch and what only hangs on it are left out of cpu.txt: pyproject.toml pins
# torch, and which build of it comes is the machine's matter. On GPUs vision and audio models need what the CPU build
# cannot use (see [tool.uv] in pyproject.toml), hence the overrides.
COMPILE := $(UV) pip compile pyproject.toml --universal --python-version 3.11 --no-annotate --quiet \
	--custom-compile-command "make lock"
CPU_LEFT_OUT := torch torchvision torchaudio torchcodec cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas \
	nvidia-cuda-nvrtc nvidia-cudnn-cu13 nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvshmem-cu13

.PHONY: lock
lock: $(UV)
	$(if $(PIP_FIND_LINKS),UV_FIND_LINKS="$(PIP_FIND_LINKS)") $(COMPILE) --extra cpu --extra dev \
		$(CPU_LEFT_OUT:%=--no-emit-package %) $(if $(PIP_FIND_LINKS),,--torch-backend=cpu) --output-file requirements/cpu.txt
	$(COMPILE) --extra gpu --overrides requirements/gpu-overrides.txt --output-file requirements/gpu.txt
	@! grep -n '://' requirements/*.txt || { echo "a download address stands in a requirements file" >&2; exit 1; }

.PHONY: clean
clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build *.egg-info
	find argus reconciler webapi tests -name __pycache__ -type d -prune -exec rm -rf {} +
