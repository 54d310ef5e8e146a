# make demo: the whole workflow on small clips, offline.   make test: all tests.   make help: the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PORT ?= 8347

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow test-gpu bench bench-gpu lint docs wheel clean-demo

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(INSTALLED) ## make .venv with everything pinned in constraints.txt

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; \
	sys.exit(None if (3, 11) <= v < (3, 14) else "clip4vla: Python %d.%d found, 3.11, 3.12 or 3.13 needed: make PYTHON=python3.11 ..." % v)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,test,docs]'
	@touch $@

demo: $(INSTALLED) ## raw clips to tables, figures, report and MLflow in minutes (build/demo)
	@$(BIN)/python demo/run.py --port $(PORT)

test: $(INSTALLED) ## unit tests, then the workflow end to end
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "not slow"

test-slow: $(INSTALLED) ## every test at full counts
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

test-gpu: $(INSTALLED) ## the tests that need a GPU
	CLIP4VLA_REQUIRE_GPU=1 $(BIN)/python -m pytest -m gpu

bench: $(INSTALLED) ## quick benchmarks against their baselines (build/bench)
	$(BIN)/python benchmarks/suite.py

bench-gpu: $(INSTALLED) ## the benchmarks of one GPU, in 12 minutes (build/bench)
	$(BIN)/python benchmarks/suite.py --set gpu

lint: $(INSTALLED) ## ruff, mypy, the law of the rooms, snakefmt, snakemake --lint
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_rooms.py
	$(BIN)/snakefmt --check workflow rules clip4vla/stages/project/Snakefile
	$(BIN)/python -m snakemake --snakefile workflow/Snakefile --lint

docs: $(INSTALLED) ## the docs as a site in build/site; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir build/site

wheel: $(INSTALLED) ## the package as a wheel in build/wheel
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir build/wheel .

clean-demo: ## forget the demo's results
	rm -rf build/demo
