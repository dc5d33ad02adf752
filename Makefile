# make report   the default study from nothing to reports/default/index.html
# make test     the tests, two files at a time, of one thread each: threads of two processes that wait for each other take far longer
# make test-full  the long tests: the README's commands, the notebooks by hand, the page in Chromium (which must be on the path)
# make lint     ruff over package, tests and notebooks; no import goes up the house; types
# make lab      JupyterLab on the notebooks
# make clean    remove what the others made, but for reports and the cache of weights
# make gpu      on a machine with a card: what docs/gpu.md is made of, in eight minutes, with its own Python; REHEARSE=1: on the CPU
# make lock     write requirements.lock anew from pyproject.toml's ranges
PYTHON ?= python3
BIN := .venv/bin

.PHONY: report test test-full lint lab gpu clean lock

report: .venv/installed
	@echo "affq: running the default study: one small model at four precisions, and as it was published, no GPU needed; a few minutes on two cores with AVX-512, twenty without."
	@echo "affq: its weights and the judge's (170 MB) are fetched first if they are not in your cache."
	@$(BIN)/affq run default; status=$$?; $(BIN)/affq report default && exit $$status

test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-full: .venv/installed
	$(BIN)/python -m pytest -m full

lint: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(BIN)/mypy

lab: .venv/installed
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/notebooks

# Not installed first: a machine with a card may have a torch of its own, and no network.
gpu:
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) tests/gpu/gpu.py $(if $(REHEARSE),--rehearse) $(if $(MINUTES),--minutes $(MINUTES))

clean:
	rm -rf .venv .pytest_cache .hypothesis .ruff_cache .mypy_cache .import_linter_cache
	find affq tests scripts -name __pycache__ -prune -exec rm -rf {} +

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "affq needs Python 3.11 or newer, this is " + sys.version)'
	@echo "affq: installing the locked versions into .venv: some minutes, depending on the network; 2 GB of disk, several more with CUDA libraries."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

lock:
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@echo "# Exact versions of everything affq and its tests use; made by make lock." > requirements.lock
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+[a-z0-9.]*$$//' | grep -viE '^(nvidia|cuda|triton)' >> requirements.lock
	@touch .venv/installed
