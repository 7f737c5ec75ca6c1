# Needs Python 3.11 or newer and make; the rest is installed into .venv.
# Another Python: make PYTHON=python3.12 demo

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PYTEST_ARGS ?= -n 2
BENCH_ARGS = $(CONTESTANTS:%=--contestant %) $(SIZES:%=--size %) $(NETWORK:%=--network %) $(REPEATS:%=--repeats %)

# What each target installs besides the core: extras of pyproject.toml.
EXTRAS_demo := sklearn
EXTRAS_test := test,sklearn,web
EXTRAS_check := dev
EXTRAS_bench := test,web
EXTRAS_bench-full := test,web,fast,figures
EXTRAS_soak := test
EXTRAS_flower := test
EXTRAS_records := sklearn
EXTRAS_docs := docs
EXTRAS_modes := sklearn,figures
EXTRAS_codecs := sklearn,figures
EXTRAS_strategies := sklearn,figures
EXTRAS_attacks := sklearn
EXTRAS_fuzz := fuzz

# Where the Python of .venv was removed or replaced, nothing counts as installed.
$(shell test -x $(PY) || rm -f $(VENV)/.[a-z]*)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo test wheel-test chaos chaos-real fuzz check format bench bench-full modes codecs strategies attacks records flower soak docs typings vendor page-figures clean

help:             ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.demo         ## one aggregator and four hospitals train on real data, about half a minute
	@$(PY) examples/breast_cancer/main.py --folder demo

test: $(VENV)/.test         ## run all tests but those of the wheel and of the heavy extras
	@$(PY) -m pytest $(PYTEST_ARGS)

wheel-test: $(VENV)/.test   ## build wheel and sdist and try them in an empty environment
	@$(PY) -m pytest -m wheel

chaos: $(VENV)/.test        ## simulate seeds, e.g. SEEDS=1:1000; one seed tells its story; BUG=… plants one; SECONDS=…
	@$(PY) -m tests.simulation $(or $(SEEDS),1:300) $(if $(BUG),--bug $(BUG)) $(if $(SECONDS),--seconds $(SECONDS))

chaos-real: $(VENV)/.test   ## kill real daemons and sites, then check all: SEED KILLS SECONDS SITES ROUNDS LARGE_MB
	@$(PY) -m tests.chaos $(if $(SEED),--seed $(SEED)) $(if $(KILLS),--kills $(KILLS)) \
	  $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SITES),--sites $(SITES)) \
	  $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(LARGE_MB),--large-mb $(LARGE_MB))

fuzz: $(VENV)/.fuzz         ## give codec, session, an agent and a daemon hostile inputs, e.g. INPUTS=1000000 SEED=1 TARGETS=codec
	@$(PY) -m fuzz $(TARGETS) --inputs $(or $(INPUTS),100000) $(if $(SEED),--seed $(SEED))

check: $(VENV)/.check typings ## lint, format, types: what must be clean before a commit
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

format: $(VENV)/.check      ## let ruff format the code and mend what it can
	@$(PY) -m ruff check --fix --quiet . ; $(PY) -m ruff format .

bench: $(VENV)/.bench       ## time rounds beside a bare durable round, minutes: CONTESTANTS SIZES NETWORK REPEATS
	@$(PY) -m bench.rounds measure $(BENCH_ARGS)

bench-full: $(VENV)/.bench-full ## the same with all sizes, networks and peers, over an hour: writes docs/benchmarks.md
	@$(PY) -m bench.rounds measure --full --json docs/records/benchmarks.json $(BENCH_ARGS)
	@$(PY) -m bench.rounds report

modes: $(VENV)/.modes       ## draw accuracy over virtual time in the modes sync, semi-sync and async
	@$(PY) bench/modes.py

codecs: $(VENV)/.codecs     ## measure what codecs save, cost and do to accuracy, some minutes: writes docs/compression.md
	@$(PY) -m bench.codecs measure --json docs/records/codecs.json
	@$(PY) -m bench.codecs report

strategies: $(VENV)/.strategies ## train with each under label skew, about a minute: writes docs/strategies.md, from docstrings too
	@$(PY) -m bench.strategies measure --json docs/records/strategies.json
	@$(PY) -m bench.strategies report

records: $(VENV)/.records   ## download the heart-disease records that tests train with, and check their digests
	@$(PY) examples/heart_disease/main.py --fetch

flower: $(VENV)/.flower     ## install Flower in an environment of its own, for tests that compare strategies with its own
	@$(PY) -c 'from bench.rounds.flower_grpc import FLOWER; print(FLOWER.program("python"))'

attacks: $(VENV)/.attacks   ## train by every robust strategy under every attack, half an hour: writes docs/robustness.md
	@$(PY) -m bench.attacks measure --json docs/records/attacks.json
	@$(PY) -m bench.attacks report

soak: $(VENV)/.soak         ## let many real agents come and go at a real daemon: AGENTS MINUTES MODE POLL CHURN OUTPUT FIGURE
	@$(PY) -m bench.soak $(if $(AGENTS),--agents $(AGENTS)) $(if $(MINUTES),--minutes $(MINUTES)) \
	  $(if $(MODE),--mode $(MODE)) $(if $(POLL),--poll $(POLL)) $(if $(CHURN),--churn $(CHURN)) \
	  $(if $(OUTPUT),--output $(OUTPUT)) $(if $(FIGURE),--figure $(FIGURE))

docs: $(VENV)/.docs         ## build the documentation into site/
	@rm -rf build/docs && mkdir -p build/docs/fl_main  # all packages in one folder, as installed
	@cd build/docs/fl_main && ln -s ../../../fl_main/* ../../../agent ../../../aggregator ../../../db .
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet
	@echo "site/index.html is ready; with search: $(PY) -m http.server --directory site"

typings:          ## let mypy and editors see agent/ as fl_main.agent
	@mkdir -p typings/fl_main
	@ln -sfn ../../agent ../../aggregator ../../db typings/fl_main/

vendor:           ## build the libraries of the page anew, as pinned in db/web/npm; needs Node.js and npm
	@cd db/web/npm && npm ci --ignore-scripts --no-audit --no-fund --silent && node build.mjs

page-figures: $(VENV)/.test ## take the pictures of docs/web.md anew; needs Chromium
	@FL_PAGE_FIGURES=$(CURDIR)/docs/figures $(PY) -m pytest tests/db/web/test_in_browser.py -k figures

clean:            ## remove everything that make made
	rm -rf $(VENV) build dist site typings demo htmlcov *.egg-info db/web/npm/node_modules
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage .coverage.*

# One stamp for each target. A change of pyproject.toml or setup.py installs again; so does
# another Python. pip is quiet but for errors.
$(VENV)/.%: pyproject.toml setup.py $(PY)
	@echo "Installing what 'make $*' needs into $(VENV) (once) ..."
	@$(PY) -m pip install -qq --disable-pip-version-check --no-input --editable ".$(if $(EXTRAS_$*),[$(EXTRAS_$*)])"
	@touch $@

$(PY):
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
	  echo "Found no '$(PYTHON)': install Python 3.11 or newer (Debian, Ubuntu: sudo apt install python3 python3-venv; macOS: brew install python), or name yours: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Need Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1 | head -n 1): install a newer one, or name yours: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' cannot make virtual environments: install its venv module (Debian, Ubuntu: sudo apt install python3-venv)" >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV)
