# Every command sets itself up: `make demo` on a fresh machine needs only Python 3.11-3.13 and the package index.
#
#   make demo PYTHON=python3.12        another interpreter
#   make demo TORCH_INSTALL="--extra-index-url ADDRESS"
#                                      another build of torch, e.g. the CPU-only one for x86 Linux (200 MB rather than
#                                      several GB); ADDRESS is on PyTorch's install page
PYTHON ?= python3
VENV ?= .venv
TORCH_INSTALL ?=
DEMO ?=
TRITON ?= triton==3.9.0

BIN := $(VENV)/bin
LOCK := requirements/lock.txt
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check install $(if $(CI),--quiet)
# One thread a worker: two workers already fill two cores.
WORKERS ?= 2
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 NUMBA_NUM_THREADS=1
# Threads that wait sleep: on a busy machine spinning ones cost several times as much.
OFFLINE := OMP_WAIT_POLICY=passive HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 MONOSEMY_QUIET=1

.PHONY: help setup demo test test-unit test-integration test-browser test-processors test-wheel web notebooks docs check format bench clean clean-all

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## (.*)/  make \1 \t\2/' | expand -t 26

setup: $(STAMP) ## virtual environment with everything at the locked versions

$(STAMP): $(LOCK) pyproject.toml
	@command -v "$(PYTHON)" >/dev/null 2>&1 || { \
	  echo "error: no '$(PYTHON)' on the PATH; install Python 3.11, 3.12 or 3.13, or name it: make PYTHON=python3.12 ..." >&2; exit 2; }
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "error: $(PYTHON) is $$("$(PYTHON)" --version 2>&1); monosemy needs Python 3.11, 3.12 or 3.13: make PYTHON=python3.12 ..." >&2; exit 2; }
	@$(BIN)/python -c 'import pip' >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear "$(VENV)" || { \
	  echo "error: $(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 2; }
	@echo "setting up $(VENV) (torch first, then the locked packages)"
	$(PIP) --constraint $(LOCK) $(TORCH_INSTALL) torch
	$(PIP) --requirement $(LOCK)
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

demo: $(STAMP) ## 15 SAEs on one site of SmolLM2-135M, the first latents within minutes (DEMO="--open" opens them)
	$(BIN)/monosemy demo $(DEMO)

test: test-unit test-integration ## the whole suite but for the browser's
	@echo "left out: the pages in a real browser (make test-browser), a wheel in an empty environment (make test-wheel)"

# The Triton kernels are tested in Triton's interpreter where there is no GPU. CUDA builds of torch bring their own
# Triton; elsewhere it is needed for these tests alone.
$(VENV)/.triton: $(STAMP)
	@$(BIN)/python -c 'import triton' >/dev/null 2>&1 || $(PIP) --no-deps $(TRITON) || \
	  echo "no Triton for this platform: the tests of its kernels are left out"
	@touch $@

test-unit: $(STAMP) $(VENV)/.triton ## tests on tiny random models, and of what decides in the studies
	$(ONE_THREAD) $(OFFLINE) $(BIN)/python -m pytest tests/unit tests/research -n $(WORKERS)

test-integration: $(STAMP) ## tests on the real embedded model
	$(OFFLINE) $(BIN)/python -m pytest tests/integration

# What floats, kernels and memory could decide otherwise elsewhere: the tests of the numerical core again without vector
# instructions, and as on a processor with AVX2 alone and four threads. Which of these a machine hides differs by machine.
NUMERICAL := tests/unit/kernels tests/unit/saes tests/unit/training tests/unit/test_latents.py tests/unit/support/test_fetch.py \
  tests/unit/circuits/jacobian/test_mlp.py $(patsubst %,tests/unit/circuits/heads/test_%.py,methods discrete)
# Files, commands and interpreted kernels are the same on every processor.
NOT_NUMERICAL := $(patsubst %,--ignore=tests/unit/%.py,kernels/test_triton kernels/test_self_test saes/test_listing \
  saes/formats/test_export saes/formats/test_hub saes/formats/test_strangers training/test_viewers training/test_sharded_files)
NO_VECTORS := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 NUMBA_CPU_NAME=generic MONOSEMY_SCREEN=0
AVX2 := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 MONOSEMY_SCREEN=0
FOUR_THREADS := OMP_NUM_THREADS=4 MKL_NUM_THREADS=4 OPENBLAS_NUM_THREADS=4 NUMBA_NUM_THREADS=4

test-processors: $(STAMP) ## the numerical tests as other processors run them: no vector instructions; AVX2 alone
	$(NO_VECTORS) $(ONE_THREAD) $(OFFLINE) $(BIN)/python -m pytest $(NUMERICAL) $(NOT_NUMERICAL) -n $(WORKERS)
	$(AVX2) $(FOUR_THREADS) $(OFFLINE) $(BIN)/python -m pytest $(NUMERICAL) $(NOT_NUMERICAL) -n $(WORKERS)

# Chromium comes from the system's packages: Playwright's own download is not needed.
$(VENV)/.browser: $(STAMP) requirements/browser.txt
	@command -v chromium >/dev/null 2>&1 || command -v chromium-browser >/dev/null 2>&1 || command -v google-chrome >/dev/null 2>&1 || \
	  { test "$$(id -u)" = 0 && command -v apt-get >/dev/null 2>&1 && echo "installing Chromium" && \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null; } || \
	  { echo "error: no Chromium; install it (Debian, Ubuntu: apt-get install chromium) or set MONOSEMY_CHROMIUM to its path" >&2; exit 2; }
	$(PIP) --requirement requirements/browser.txt
	@touch $@

test-browser: $(STAMP) $(VENV)/.browser ## the pages in a real Chromium
	$(OFFLINE) $(BIN)/python -m pytest tests/browser

test-wheel: $(STAMP) ## a wheel in an empty environment: what it asks for, the first look, its pages (about three minutes)
	$(OFFLINE) TORCH_INSTALL="$(TORCH_INSTALL)" $(BIN)/python -m pytest tests/wheel

web: $(STAMP) ## builds the pages of monosemy browse again (needs Node 18 or later)
	$(BIN)/python -m monosemy.app.typescript
	cd monosemy/app/web && npm ci --no-audit --no-fund && npm run build

$(VENV)/.notebooks: $(STAMP) requirements/notebooks.txt
	$(PIP) --requirement requirements/notebooks.txt
	@touch $@

notebooks: $(STAMP) $(VENV)/.notebooks ## runs the notebooks of docs/notebooks/, for the site's pages (five minutes)
	$(OFFLINE) $(BIN)/python docs/notebook_pages.py

# In an environment of its own, which needs no torch: the site is made from text alone.
DOCS_VENV ?= .venv-docs

$(DOCS_VENV)/.installed: requirements/docs.txt
	"$(PYTHON)" -m venv --clear "$(DOCS_VENV)"
	$(DOCS_VENV)/bin/python -m pip --disable-pip-version-check install --quiet --requirement requirements/docs.txt
	@touch $@

docs: $(DOCS_VENV)/.installed ## the documentation site in site/, offline; a dead link is an error (with the outputs of make notebooks)
	NO_MKDOCS_2_WARNING=1 PATH="$(abspath $(DOCS_VENV))/bin:$$PATH" $(DOCS_VENV)/bin/mkdocs build --strict --quiet
	@echo "open site/index.html; with search: python3 -m http.server --directory site"

check: $(STAMP) ## formatter, linter, type checker, import directions, dead code (changes nothing)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/vulture monosemy research tests/vulture_allowed.py

format: $(STAMP) ## formats the code and mends what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

BENCHES ?= step frontier harvest memory encode store features browser
# The step benchmark compares with other libraries where they are installed: make bench STEP="--peers" after
# .venv/bin/pip install -e '.[bench]'
STEP ?=

bench: $(STAMP) ## speed and memory on this machine, about 25 minutes (BENCHES="step encode" chooses)
	@mkdir -p runs/bench
	@for name in $(BENCHES); do echo "== $$name"; \
	  $(BIN)/python -m research.speed.$$name --out runs/bench/$$name.json $$(test $$name = step && echo $(STEP)) || exit 1; done

clean: ## removes caches and build products; keeps .venv and runs
	rm -rf build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .grimp_cache
	find . -name __pycache__ -type d -not -path "./$(VENV)/*" -prune -exec rm -rf {} +

clean-all: clean ## removes the virtual environment too
	rm -rf "$(VENV)" "$(DOCS_VENV)"
