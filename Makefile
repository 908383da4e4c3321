# Everything runs in .venv; state of the demo lives in FLOWS_HOME (default .flows).
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready

.PHONY: setup demo test fuzz lint bench docs
setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0])'
	@echo "  installing packages into $(VENV) …" >&2
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# The demo ends with make, also when make is killed outright: the shell's parent is make.
demo: $(READY)
	@exec $(VENV)/bin/flows up --demo --parent $$PPID

test: $(READY)
	$(VENV)/bin/pytest

# The fuzzing that `make test` does for half a minute, for as long as FLOWS_FUZZ_SECONDS says.
fuzz: export FLOWS_FUZZ_SECONDS ?= 600
fuzz: $(READY)
	$(VENV)/bin/pytest tests/openapi/test_fuzz.py

lint: $(READY)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo
	$(VENV)/bin/sqlfluff lint sql

# ONLY=rest runs one benchmark, JSON=1 prints JSON.
bench: $(READY)
	$(VENV)/bin/python -m tests.bench $(if $(ONLY),--only $(ONLY)) $(if $(JSON),--json)

# The generated pages, then the site in site/, which a gateway that starts afterwards serves.
docs: export NO_MKDOCS_2_WARNING = 1
docs: $(READY)
	$(VENV)/bin/python -m docs.generators
	$(VENV)/bin/python -m mkdocs build --strict --quiet
