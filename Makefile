# Every target sets up what it needs in .venv on a fresh machine; stamp files keep it from being done twice.
# Needs python3 (3.10 or newer), a C++20 compiler and make; nvcc is used where it is found.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
export IVAN_SHARED ?= $(abspath ../shared)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# One CUDA architecture, to be quick: IVAN_CUDA_ARCH, else this machine's GPU, else one that later GPUs can run too.
# (nvidia-smi without a driver prints its complaint where the number would be.)
GPU_ARCH := $(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | grep -xE '[0-9]+\.[0-9]' | head -n 1)
export TORCH_CUDA_ARCH_LIST := $(or $(IVAN_CUDA_ARCH),$(GPU_ARCH),8.0+PTX)
NVCC := $(firstword $(CUDACXX) $(wildcard $(CUDA_HOME)/bin/nvcc) $(shell command -v nvcc) $(wildcard /usr/local/cuda/bin/nvcc))

NATIVE_SOURCES := $(shell find csrc cmake -type f 2>/dev/null) CMakeLists.txt setup.py pyproject.toml
CLANG_FORMAT_SOURCES = $(shell find csrc tests/csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' -o -name '*.inc')

.PHONY: help setup test demo docs soak fuzz wheel portable-gate lint format bench gpu-check cuda-gate clean
help:
	@echo "make demo       train, synthesise, evaluate and report on simulated contrasts, into demo-run/"
	@echo "make test       all tests that need no GPU"
	@echo "make gpu-check  the tests that need a CUDA device"
	@echo "make lint       ruff, mypy, clang-format        make format  apply ruff's and clang-format's formatting"
	@echo "make bench      kernels against plain PyTorch   make cuda-gate  all CUDA architectures, warnings are errors"
	@echo "make soak       kill -9 at random moments, KILLS=50 of each job      make fuzz   thousands of damaged files"
	@echo "make docs       write docs/api.md and the notebook anew"
	@echo "make wheel      build and check the wheel in dist/  make portable-gate  the kernels without AVX"
	@echo "make setup      only the environment in .venv   make clean   remove it and everything built"

# --- set-up --------------------------------------------------------------------------------------------------------
# A Python that already has torch (a GPU image without network, say) lends its packages to the environment.
$(STAMPS)/venv:
	if $(PYTHON) -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)'; then \
		$(PYTHON) -m venv --system-site-packages $(VENV); else $(PYTHON) -m venv $(VENV); fi
	mkdir -p $(STAMPS) && touch $@

$(STAMPS)/torch: $(STAMPS)/venv
	$(BIN)/python -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)' \
		|| $(BIN)/pip install -q "$(TORCH)"
	touch $@

# The build requirements of pyproject.toml: without build isolation pip does not install them itself.
$(STAMPS)/build-tools: $(STAMPS)/torch pyproject.toml
	$(BIN)/pip install -q $$(sed -n 's/^requires = \[\(.*\)\]/\1/p' pyproject.toml | tr -d '",' )
	touch $@

$(STAMPS)/install: $(STAMPS)/build-tools $(NATIVE_SOURCES)
	$(BIN)/pip install -q --no-build-isolation -e '.[test,demo,prepare,register,notebook]'
	touch $@

$(STAMPS)/lint-tools: $(STAMPS)/venv pyproject.toml
	$(BIN)/pip install -q $$(sed -n 's/^lint = \[\(.*\)\]/\1/p' pyproject.toml | tr -d '",')
	touch $@

setup: $(STAMPS)/install

# --- what people run -----------------------------------------------------------------------------------------------
demo: $(STAMPS)/install
	$(BIN)/ivan demo --out demo-run

test: $(STAMPS)/install
	$(BIN)/pytest -q -m "not gpu" $(PYTEST_ARGS)

gpu-check: $(STAMPS)/install
	$(BIN)/pytest -q -m gpu $(PYTEST_ARGS)

# Pages that are written from the code: the API reference and the notebook.
docs: $(STAMPS)/install
	$(BIN)/python docs/make_api.py
	$(BIN)/python docs/first_steps.py

# Results after kills must equal those of jobs nobody killed: one thread, so that sums have one order.
soak: $(STAMPS)/install
	OMP_NUM_THREADS=1 $(BIN)/python tests/soak/soak.py --kills $(or $(KILLS),50) $(if $(SEED),--seed $(SEED))

fuzz: $(STAMPS)/install
	IVAN_FUZZ=$(or $(FUZZ),2000) $(BIN)/pytest -q tests/ivan/test_fuzz.py -o timeout=0 $(PYTEST_ARGS)

bench: $(STAMPS)/install
	$(BIN)/pytest -q benchmarks -o python_files='bench_*.py' $(PYTEST_ARGS)

lint: $(STAMPS)/lint-tools $(STAMPS)/install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CLANG_FORMAT_SOURCES)

format: $(STAMPS)/lint-tools
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CLANG_FORMAT_SOURCES)

$(STAMPS)/wheel-tools: $(STAMPS)/venv pyproject.toml
	$(BIN)/pip install -q $$(sed -n 's/^wheel = \[\(.*\)\]/\1/p' pyproject.toml | tr -d '",')
	touch $@

# One wheel for CPU and CUDA (kernels for every architecture unless IVAN_WHEEL_ARCHS says less), made manylinux by
# auditwheel; torch's libraries stay outside, the user has them. Checked in a fresh environment that only borrows
# this one's dependencies, from outside of the checkout.
wheel: $(STAMPS)/install $(STAMPS)/wheel-tools
	rm -rf build/wheel build/wheel-venv dist
	TORCH_CUDA_ARCH_LIST="$(IVAN_WHEEL_ARCHS)" $(BIN)/pip wheel -q --no-build-isolation --no-deps -w build/wheel .
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/auditwheel repair -w dist build/wheel/*.whl \
		$(foreach library,torch torch_cpu torch_cuda torch_python c10 c10_cuda,--exclude lib$(library).so)
	$(BIN)/python -m venv --without-pip build/wheel-venv
	$(BIN)/python -c 'import pathlib, sys; \
		paths = [p for p in sys.path if p.endswith(("site-packages", "dist-packages"))]; \
		next(pathlib.Path("build/wheel-venv").glob("lib/*/site-packages")).joinpath("borrowed.pth").write_text("\n".join(paths))'
	$(BIN)/pip --python build/wheel-venv/bin/python install -q --no-deps --no-index --ignore-installed dist/*.whl
	cd build/wheel-venv && bin/python $(abspath tests/wheel/check_wheel.py)
	ls -l dist

# The kernels of processors without AVX: cross-compiled for ARM and run in an emulator (see the test for its needs).
portable-gate: $(STAMPS)/install
	$(BIN)/pytest -q -rs tests/csrc/test_arm.py

# Only the CUDA kernels, for every architecture that releases are built for; needs nvcc, but no GPU.
cuda-gate: $(STAMPS)/install
	test -n "$(NVCC)" || { echo "cuda-gate: no nvcc on PATH, in CUDA_HOME or in /usr/local/cuda" >&2; exit 1; }
	$(BIN)/cmake -S . -B build/cuda-gate -GNinja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja \
		-DTORCH_DIR="$$($(BIN)/python -c 'import importlib.util as u, pathlib; print(pathlib.Path(u.find_spec("torch").origin).parent)')" \
		-DPython_EXECUTABLE=$(abspath $(BIN))/python -Dpybind11_DIR="$$($(BIN)/pybind11-config --cmakedir)" \
		-DCMAKE_CUDA_COMPILER="$(NVCC)" -DIVAN_FAST_CUDA=ON -DIVAN_FAST_CUDA_ARCHS= -DIVAN_FAST_WERROR=ON
	$(BIN)/cmake --build build/cuda-gate --target ivan_cuda

clean:
	rm -rf $(VENV) build dist demo-run .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	rm -rf ivan_fast/_C.*.so ./*.egg-info python/*.egg-info
	find ivan_fast python tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
