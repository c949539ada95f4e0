# make demo   everything on the embedded digits data set, into runs/demo
# make test   lint, types, tests (README says how long)
# make test-all also the slow ones
# make install-check  the installed package, from an empty folder
# make notebooks  executes the notebooks in place, outputs included
# make bench  timings against others, into tests/benchmarks/benchmarks.md
# make docs   the documentation as a site, into build/docs
# 3.12 where it is there: JAX after 0.10 needs it.
PYTHON ?= $(shell python3.12 -c 'print("python3.12")' 2>/dev/null || echo python3)
VENV ?= .venv
BIN = $(VENV)/bin
DEMO = runs/demo

export JAX_PLATFORMS ?= cpu
export TF_CPP_MIN_LOG_LEVEL ?= 3
# As main.py does for itself: huge pages make steps on a CPU faster.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1
# Temporary files of libraries and tests stay inside the clone too.
export TMPDIR := $(CURDIR)/.cache/tmp
$(shell mkdir -p $(TMPDIR))

.PHONY: demo test test-all bench notebooks docs lint format install-check setup clean

setup: $(VENV)/.run

# The packages a run needs.
$(VENV)/.run: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

# What the tests add.
$(VENV)/.dev: requirements-dev.txt $(VENV)/.run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

demo: $(VENV)/.run
	$(BIN)/python main.py --stage=build_table --config=configs/digits.py --workdir=$(DEMO)
	$(BIN)/python main.py --stage=all --config=configs/digits.py --workdir=$(DEMO) --config.latency_table=$(DEMO)/latency_table.json
	@echo "Open $(DEMO)/report/index.html"

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format .

# The wheel in an environment of its own, used from an empty folder. Its
# requirements are lent by the environment of the tests.
install-check: $(VENV)/.dev
	rm -rf .cache/install && mkdir -p .cache/install/empty
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir .cache/install .
	rm -rf build spnas_jax.egg-info
	$(PYTHON) -m venv .cache/install/venv
	.cache/install/venv/bin/pip install --quiet --no-deps .cache/install/*.whl
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
	  > .cache/install/lent.pth
	cp .cache/install/lent.pth \
	  "$$(.cache/install/venv/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")"
	.cache/install/venv/bin/spnas --help > .cache/install/help.txt || test $$? -eq 1
	grep -q -- --config .cache/install/help.txt
	cd .cache/install/empty && ../venv/bin/spnas --stage=zoo --config=digits --workdir=zoo

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-all: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile -m ''

bench: $(VENV)/.dev
	$(BIN)/python -m tests.benchmarks.run_all

# What the site adds. Nothing is fetched once they are installed.
$(VENV)/.docs: requirements-docs.txt $(VENV)/.run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-docs.txt
	touch $@

# Warnings are errors. The switch silences an advertisement.
docs: $(VENV)/.docs
	PYTHONPATH=. $(BIN)/python docs/site/sources.py build/docs_sources
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "Open build/docs/index.html; with search: python3 -m http.server -d build/docs"

notebooks: $(VENV)/.dev
	$(BIN)/python -m tests.execute_notebooks

clean:
	rm -rf $(VENV) .cache build runs data
