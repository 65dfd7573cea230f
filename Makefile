# Every target sets up what it needs in .venv on a fresh machine; stamp files keep it from being done twice.
# Needs python3 (3.10 or newer), a C++20 compiler and make; nvcc is used where it is found.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= python3
TORCH ?= torch==2.13.0
START := $(shell date +%s)
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
export IVAN_SHARED ?= $(abspath ../shared)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# Few CUDA architectures, to be quick: IVAN_CUDA_ARCH, else those of this machine's GPUs (from sm_75 on), else one that
# later GPUs can run too. (nvidia-smi without a driver prints its complaint where the number would be.)
GPU_ARCH := $(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | grep -xE '7\.5|[89]\.[0-9]|[1-9][0-9]\.[0-9]' | sort -u)
export TORCH_CUDA_ARCH_LIST := $(or $(IVAN_CUDA_ARCH),$(GPU_ARCH),8.0+PTX)
NVCC := $(firstword $(CUDACXX) $(wildcard $(CUDA_HOME)/bin/nvcc) $(shell command -v nvcc) $(wildcard /usr/local/cuda/bin/nvcc))

NATIVE_SOURCES := $(shell find csrc cmake -type f 2>/dev/null) CMakeLists.txt setup.py pyproject.toml
CLANG_FORMAT_SOURCES = $(shell find csrc tests/csrc tests/cuda_emulation -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' -o -name '*.inc')

.PHONY: help setup test test-all demo reproduce docs soak fuzz wheel portable-gate lint format bench performance gpu-check compat cuda-gate mutants clean
help:
	@echo "make demo       train, synthesise, evaluate and report on simulated contrasts, into demo-run/"
	@echo "make test       tests that need no GPU; make test-all: those too that only repeat them on more cases"
	@echo "make gpu-check  this machine's GPU: right? how fast? ten minutes, no network"
	@echo "make compat     one build on the oldest and the newest torch (COMPAT_TORCH=\"2.10.0 2.14.1\")"
	@echo "make reproduce  a small run on the real images of IVAN_SHARED, compared with the committed numbers"
	@echo "make lint       ruff, mypy, clang-format        make format  apply ruff's and clang-format's formatting"
	@echo "make soak       kill -9 at random moments, KILLS=50 of each job      make fuzz   thousands of damaged files"
	@echo "make docs       write docs/api.md and the notebook anew"
	@echo "make wheel      build and check the wheel in dist/  make portable-gate  the kernels without AVX"
	@echo "make bench      kernels and network against plain PyTorch, into benchmarks/results/bench.json"
	@echo "make performance  measures and writes docs/performance.md (25 minutes, on a quiet machine)"
	@echo "make mutants    which small faults in the CUDA kernels does no test notice? (MUTANTS=150 of them, SEED=0)"
	@echo "make cuda-gate  all CUDA architectures, warnings are errors"
	@echo "make setup      only the environment in .venv   make clean   remove it and everything built"

# --- set-up --------------------------------------------------------------------------------------------------------
# A Python that already has torch (a GPU image without network, say) lends its packages to the environment, by the
# folders where it finds them: --system-site-packages would look past a virtual environment to the Python it came from.
# The environment's own setuptools may be too old to build with, and would hide the lent one. A Python without ensurepip
# (Debian's, before python3-venv is installed) must lend its pip too.
$(STAMPS)/venv:
	$(PYTHON) -m venv $(VENV) 2>/dev/null || $(PYTHON) -m venv --clear --without-pip $(VENV)
	if $(PYTHON) -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)'; then \
		own="$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"; \
		$(PYTHON) -c 'import sys; print(*[p for p in sys.path if p.endswith("-packages")], sep="\n")' > "$$own/lent.pth"; \
		rm -rf "$$own"/setuptools* "$$own"/pkg_resources "$$own"/_distutils_hack "$$own"/distutils-precedence.pth; fi
	mkdir -p $(STAMPS) && touch $@

$(STAMPS)/torch: $(STAMPS)/venv
	$(BIN)/python -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)' \
		|| $(BIN)/pip install -q "$(TORCH)"
	touch $@

# The build requirements of pyproject.toml: without build isolation pip does not install them itself.
$(STAMPS)/build-tools: $(STAMPS)/torch pyproject.toml
	$(BIN)/python -m pip install -q $$(sed -n 's/^requires = \[\(.*\)\]/\1/p' pyproject.toml | tr -d '",' )
	touch $@

$(STAMPS)/install: $(STAMPS)/build-tools $(NATIVE_SOURCES)
	$(BIN)/pip install -q --no-build-isolation -e '.[test,demo,prepare,register,notebook,baselines]'
	touch $@

$(STAMPS)/lint-tools: $(STAMPS)/venv pyproject.toml
	$(BIN)/pip install -q $$(sed -n 's/^lint = \[\(.*\)\]/\1/p' pyproject.toml | tr -d '",')
	touch $@

# Other libraries that ours is measured against. Without their requirements, which would replace torch; they run without
# them. Neither is needed by anything else: where they cannot be had, benchmarks and tests say so and go on.
$(STAMPS)/rivals: $(STAMPS)/install
	$(BIN)/pip install -q --no-deps --no-build-isolation $$(sed -n 's/^bench = \[\(.*\)\]/\1/p' pyproject.toml | tr -d '",') \
		|| echo "MemCNN and FrEIA could not be installed: they will be skipped"
	touch $@

setup: $(STAMPS)/install

# --- what people run -----------------------------------------------------------------------------------------------
demo: $(STAMPS)/install
	$(BIN)/ivan demo --out demo-run

# Train, synthesise, evaluate and report on the real images with fixed seeds; benchmarks/results/reproduce.json holds what
# must come out. Minutes; says so where the images are missing.
reproduce: $(STAMPS)/install
	rm -rf runs/reproduce
	$(BIN)/python benchmarks/reproduce.py --out runs/reproduce $(REPRODUCE_ARGS)

# Three processes share the tests, on two cores too: most of them wait for one thread or for a process of their own.
# Slow ones repeat on more cases what quicker ones show.
test: TESTS := not gpu and not slow
test-all: TESTS := not gpu
test test-all: $(STAMPS)/install $(STAMPS)/rivals
	$(BIN)/pytest -q -m "$(TESTS)" -n $(or $(TEST_JOBS),3) --dist loadgroup $(PYTEST_ARGS)

# Everything about this machine's GPU within ten minutes, the build included: tests, accuracy, sanitizer, times; results
# go to benchmarks/results/. Needs no network where torch, numpy, cmake, ninja, pybind11 and pytest are there.
$(STAMPS)/gpu-install: $(STAMPS)/build-tools $(NATIVE_SOURCES)
	PATH="$$(dirname "$$(command -v $(PYTHON))"):$$PATH" IVAN_FAST_CUDA=ON \
		$(BIN)/python -m pip install -q --no-build-isolation --no-deps -e .
	touch $@

# Pages that are written from the code: the API reference and the notebook.
docs: $(STAMPS)/install
	$(BIN)/python docs/make_api.py
	$(BIN)/python docs/first_steps.py

# Results after kills must equal those of jobs nobody killed: one thread, so that sums have one order.
soak: $(STAMPS)/install
	OMP_NUM_THREADS=1 $(BIN)/python tests/soak/soak.py --kills $(or $(KILLS),50) $(if $(SEED),--seed $(SEED))

fuzz: $(STAMPS)/install
	IVAN_FUZZ=$(or $(FUZZ),2000) $(BIN)/pytest -q tests/ivan/test_fuzz.py -o timeout=0 $(PYTEST_ARGS)

gpu-check:
	@ls /dev/nvidia[0-9]* >/dev/null 2>&1 || nvidia-smi -L >/dev/null 2>&1 \
		|| { echo "gpu-check: no CUDA device on this machine; nothing was checked" >&2; exit 1; }
	$(MAKE) --no-print-directory $(STAMPS)/gpu-install
	$(BIN)/python benchmarks/gpu_check --started $(START) $(GPU_CHECK_ARGS)

# One built library on the oldest and the newest supported torch, or on those that COMPAT_TORCH names.
compat: $(STAMPS)/build-tools
	$(BIN)/python tests/compat.py --torch "$(COMPAT_TORCH)"

bench: $(STAMPS)/install $(STAMPS)/rivals
	$(BIN)/pytest -q benchmarks -o python_files='bench_*.py' --benchmark-json=benchmarks/results/bench.json $(PYTEST_ARGS)

performance: $(STAMPS)/install $(STAMPS)/rivals
	$(BIN)/python benchmarks/network.py --plan figures
	$(BIN)/python benchmarks/performance.py

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

# Only the CUDA kernels, for every architecture that releases are built for, and their machine code against the rules of
# cmake/cuda_gate.toml; needs nvcc, but no GPU. Two compilations at once unless MAX_JOBS says otherwise.
$(STAMPS)/gate-tools: $(STAMPS)/build-tools
	$(BIN)/pip install -q $$(sed -n 's/^cuda-gate = \[\(.*\)\]/\1/p' pyproject.toml | tr -d '",')
	touch $@

cuda-gate: $(STAMPS)/gate-tools
	test -n "$(NVCC)" || { echo "cuda-gate: no nvcc on PATH, in CUDA_HOME or in /usr/local/cuda" >&2; exit 1; }
	start=$$(date +%s); \
	$(BIN)/cmake -S . -B build/cuda-gate -GNinja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja \
		-DTORCH_DIR="$$($(BIN)/python -c 'import importlib.util as u, pathlib; print(pathlib.Path(u.find_spec("torch").origin).parent)')" \
		-DPython_EXECUTABLE=$(abspath $(BIN))/python -Dpybind11_DIR="$$($(BIN)/pybind11-config --cmakedir)" \
		-DCMAKE_CUDA_COMPILER="$(NVCC)" -DIVAN_FAST_CUDA=ON -DIVAN_FAST_CUDA_ARCHS= -DIVAN_FAST_WERROR=ON; \
	$(BIN)/cmake --build build/cuda-gate --target ivan_cuda -j $(or $(MAX_JOBS),2); \
	$(BIN)/python cmake/cuda_gate.py cmake/cuda_gate.toml $$(find build/cuda-gate/CMakeFiles/ivan_cuda.dir -name '*.cu.o'); \
	echo "cuda-gate: $$(($$(date +%s) - start)) s"

# Systematic small faults in csrc/cuda, each against the emulated tests; prints what survives. Needs no GPU; 20 minutes.
mutants: $(STAMPS)/install
	$(BIN)/python tests/cuda_emulation/mutate.py --sample $(or $(MUTANTS),150) --seed $(or $(SEED),0) $(MUTANTS_ARGS)

clean:
	rm -rf $(VENV) build dist demo-run .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	rm -rf ivan_fast/_C.*.so ./*.egg-info python/*.egg-info
	find ivan_fast python tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
