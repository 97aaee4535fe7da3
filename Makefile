# Each target makes what it needs: a fresh clone wants Python 3.11, pip and make, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Retrainings and kills mostly wait, so that the other tests run beside them; the tests of the service follow alone.
WAITING := tests/e2e tests/faults tests/serve

.PHONY: demo test test-waiting test-others faults bench-data bench-train bench-serve fuzz docs check format clean

demo: $(STAMP)  ## drawn portraits to a served model, on this machine
	$(BIN)/mmface retrain --recipe demo

# The halves are jobs of make: a shell's background jobs ignore SIGINT, and so may the processes that tests interrupt.
test: $(STAMP)  ## the whole test suite, in two processes at once
	$(MAKE) --jobs 2 --keep-going --output-sync=target --no-print-directory test-waiting test-others

test-waiting: $(STAMP)
	@echo "== $(WAITING)"; $(BIN)/python -m pytest -p no:cacheprovider $(WAITING)

test-others: $(STAMP)
	@echo "== the other tests"; $(BIN)/python -m pytest -p no:cacheprovider $(WAITING:%=--ignore=%)

faults: $(STAMP)  ## kill -9 at twelve moments of every stage and twenty of the whole flow, a faulty S3; prints tables
	failed=0; \
	FAULT_MOMENTS=12 $(BIN)/python -m pytest tests/faults -s --ignore tests/faults/test_flow_kills.py || failed=1; \
	FAULT_MOMENTS=20 $(BIN)/python -m pytest tests/faults/test_flow_kills.py -s || failed=1; exit $$failed

bench-data: $(STAMP)  ## the data engine's limits, each as a ratio: overhead, memory, rerun, reading
	failed=0; for name in overhead memory rerun reading; do \
		echo "== $$name"; $(BIN)/python -m tests.benchmarks.$$name $(BENCH) || failed=1; \
	done; exit $$failed

bench-train: $(STAMP)  ## an iteration against the straightforward one; one step of the paper's model (needs 14 GiB)
	failed=0; for name in training paper_step; do \
		echo "== $$name"; $(BIN)/python -m tests.benchmarks.$$name $(BENCH) || failed=1; \
	done; exit $$failed

bench-serve: $(STAMP)  ## the champion of MMFACE_HOME (make demo): the service against the pipeline, and ten rough minutes
	failed=0; for name in serving soak; do \
		echo "== $$name"; $(BIN)/python -m tests.benchmarks.$$name --home $${MMFACE_HOME:-mmface-home} $(BENCH) || failed=1; \
	done; exit $$failed

fuzz: $(STAMP)  ## thousands of requests made from the OpenAPI document
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[fuzz]'
	$(BIN)/python -m tests.benchmarks.fuzz

docs: $(STAMP)  ## the documentation site, strictly, into site/
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --clean  # without the notice of its successor

check: $(STAMP)  ## lint, types, import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
