# Every target sets up what it needs in .venv; a second call starts at once.
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTHON ?= python3
# One thread per test process: two workers with two threads each would fight over two cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

.PHONY: setup quickstart lint test test-all docs mutants bench chromium format clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev,docs]'
	touch $@

quickstart: $(READY)
	$(BIN)/alignkit run quickstart

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(PYTEST)

# With the slow suites: packaging, killed processes, whole runs, the report in a browser.
test-all: lint chromium
	$(PYTEST) -m 'not gpu'

# The documentation as a site in site/, to be opened from there or served from any folder. test-all builds it too.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Breaks components in the ways of tests/conformance, where a check of the suites has to notice each, and the code in
# those of tests/mutants.toml, where a test has to.
mutants: $(READY)
	$(PYTEST) -q tests/conformance
	$(BIN)/python tests/mutants.py --jobs 2

# Kernels beside other libraries, sampling, training beside TRL, growth of costs: hours, with nothing else to do.
bench: $(READY)
	$(BIN)/python -m pip download -q --no-deps -d build/wheels liger-kernel cut-cross-entropy verl
	$(BIN)/python benchmarks/kernels/run.py --wheels build/wheels --shape T=2048,H=256,V=32000 --mask 0.5 \
	  --json benchmarks/results/kernels_peers_cpu.json
	$(BIN)/python benchmarks/sampling/run.py --json benchmarks/results/sampling.json
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/compare/run.py --model tiny mid --repeats 3 \
	  --json benchmarks/results/compare_cpu.json
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/compare/growth.py --json benchmarks/results/growth_cpu.json \
	  --plot docs/performance_growth.png
	$(BIN)/python benchmarks/compare/page.py

chromium:
	@command -v chromium >/dev/null || { echo "installing chromium for the browser tests"; \
	  apt-get -qq update && apt-get -qq install -y chromium >/dev/null; }

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) dist build site .pytest_cache .mypy_cache .ruff_cache
