# Two commands do everything: `make demo` and `make test`. Each sets up what it needs and is quick the second time.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= $(shell nproc)
# cpu or cuda: which pinned requirements to install.
DEVICE ?= cpu
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

TABLED := README.md docs/cycles.md docs/performance.md docs/quality.md
CPP_SOURCES = $(shell git ls-files '*.cc' '*.h' '*.proto' '*CMakeLists.txt')
PY_SOURCES = $(shell git ls-files 'kernels/*.py' 'training/*.py' 'serving/*.py' 'kernels/*.pyi' 'training/*.html')

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: build/.installed  ## Install system packages where missing, .venv, dependencies, and build the server

demo: build/.installed  ## Train, compile, publish, serve and hot-swap four scenarios on Census-Income
	$(BIN)/python -m examples.census.demo

test: lint build/.tests-built  ## Lint, type-check, C++ tests, Python tests
	ctest --test-dir build/cmake --output-on-failure --timeout 120
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

lint: build/.installed build/typing  ## ruff, mypy --strict, clang-format, the documents' tables
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd build/typing && MYPYPATH=$$PWD mypy --config-file ../../pyproject.toml --cache-dir ../mypy \
	    -p smt.kernels -p smt.training -p smt.serving -p examples -p bench
	git ls-files '*.cc' '*.h' | xargs -r clang-format --dry-run --Werror
	$(BIN)/python -m bench.tables $(TABLED) --check

asan tsan: build/.installed  ## C++ tests and the server's own tests under AddressSanitizer + UBSan, or ThreadSanitizer
	cmake -S . -B build/$@ -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DSMT_BUILD_TESTS=ON \
	    -DSMT_SANITIZE=$(if $(filter asan,$@),address,thread) -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python
	cmake --build build/$@ -j $(JOBS)
	TSAN_OPTIONS="halt_on_error=1 second_deadlock_stack=1" ASAN_OPTIONS="detect_leaks=1" \
	    ctest --test-dir build/$@ --output-on-failure --timeout 600
	# gRPC and torch are not instrumented: races inside them, and leaks of theirs, cannot be told from true ones. Where
	# they order code of ours, ThreadSanitizer is told so.
	SMT_SERVER=$(CURDIR)/build/$@/serving/server/smt-server SMT_LOADGEN=$(CURDIR)/build/$@/serving/loadgen/smt-loadgen \
	    ASAN_OPTIONS="detect_leaks=0" SMT_SANITIZED=$@ \
	    TSAN_OPTIONS="halt_on_error=1 ignore_noninstrumented_modules=1 suppressions=$(CURDIR)/tests/serving/server/tsan.supp" \
	    $(BIN)/python -m pytest tests/serving/test_server_*.py tests/serving/test_loadgen.py

format:  ## Rewrite Python and C++ sources in the project's format
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .
	git ls-files '*.cc' '*.h' | xargs -r clang-format -i

bench: build/.installed  ## Measure feature transformation, fused kernels and server against their peers, in full (two hours)
	$(BIN)/python -m bench.transform --json bench/results/transform.json
	$(BIN)/python -m bench.kernels --json bench/results/kernels.json
	$(BIN)/python -m bench.serving --json bench/results/serving.json
	$(BIN)/python -m bench.scenarios --json bench/results/scenarios.json
	$(BIN)/python -m bench.isolation --json bench/results/isolation.json
	$(BIN)/python -m bench.hotswap --json bench/results/hotswap.json

soak: build/.installed  ## Run the server for twenty minutes under everything at once: leaks, losses, counters
	$(BIN)/python -m bench.soak --json bench/results/soak.json

fuzz: build/.installed  ## Fuzz all that reads bytes of others, ten million times each (needs requirements/apt-fuzz.txt)
	$(BIN)/python -m bench.fuzz --json bench/results/fuzz.json

tables: build/.installed  ## Regenerate the documents' tables from bench/results
	$(BIN)/python -m bench.tables $(TABLED)

clean:  ## Remove everything that was built (keeps .venv)
	rm -rf build

# --- set-up: each step leaves a stamp, so that the second run skips it ---

build/.apt: requirements/apt.txt
	@mkdir -p build
	@missing=$$(grep -v '^#' $< | while read -r p; do \
	    [ "$$(dpkg-query -W -f='$${Status}' "$$p" 2>/dev/null)" = "install ok installed" ] || echo "$$p"; done | xargs); \
	if [ -n "$$missing" ]; then \
	    if [ "$$(id -u)" != 0 ]; then \
	        echo "Missing system packages; run as root: apt-get install $$missing" >&2; exit 1; fi; \
	    echo "Installing system packages: $$missing"; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi
	@touch $@

build/.deps: build/.apt requirements/$(DEVICE).txt requirements/torchrec.txt
	[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements/$(DEVICE).txt
	$(BIN)/python -m pip install --quiet --no-deps -r requirements/torchrec.txt
	@touch $@

build/.installed: build/.deps pyproject.toml $(CPP_SOURCES) $(PY_SOURCES)
	$(BIN)/python -m pip install --quiet --no-build-isolation --no-deps --force-reinstall .
	@touch $@

# In the folder that the installation was built in, so that nothing is compiled twice.
build/.tests-built: build/.installed $(CPP_SOURCES) $(shell git ls-files 'tests/*.cc')
	cmake -S . -B build/cmake -DSMT_BUILD_TESTS=ON > build/tests-configure.log || { cat build/tests-configure.log; exit 1; }
	cmake --build build/cmake -j $(JOBS)
	@touch $@

# mypy looks at the sources under their import names, and at the generated messages beside them.
build/typing: build/.installed
	@mkdir -p $@/smt
	@for d in kernels training serving; do ln -sfn ../../../$$d $@/smt/$$d; done
	@for d in bench examples; do ln -sfn ../../$$d $@/$$d; done
	@$(BIN)/python serving/protos/generate.py protos serving/protos
	@touch $@

.PHONY: help setup demo test lint asan tsan format bench soak fuzz tables clean
