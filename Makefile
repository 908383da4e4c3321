# Everything runs in .venv; the demo keeps its state in FLOWS_HOME (default .flows).
# `make help` prints each target with the words after its `##`.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready

# More than two cores' worth: tests wait for processes to start and for answers.
WORKERS ?= 3
XDIST := -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: help setup demo check test fuzz chaos lint bench scale-demo docs clients
.DEFAULT_GOAL := setup

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

setup: $(READY) ## everything into .venv

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0])'
	@echo "  installing packages into $(VENV) …" >&2
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# The demo ends with make, even if make is killed, because it watches the shell's parent, which is make.
demo: $(READY) ## the whole stack with demo data, until Ctrl-C
	@exec $(VENV)/bin/flows up --demo --parent $$PPID

check: $(READY) lint ## lint, and the tests that need no stack: under a minute
	$(VENV)/bin/pytest -m 'not stack' --durations 5

# Each worker has a stack of its own, a copy of a demo that is loaded once in an hour.
test: $(READY) ## every test, in WORKERS processes (3); the 20 slowest are named
	$(VENV)/bin/pytest $(XDIST)

# The fuzzing of `make test`, which runs half a minute there, for FLOWS_FUZZ_SECONDS.
fuzz: export FLOWS_FUZZ_SECONDS ?= 600
fuzz: $(READY) ## schemathesis over the document, for FLOWS_FUZZ_SECONDS (600)
	$(VENV)/bin/pytest tests/openapi/test_fuzz.py

# The killing of `make test`, which takes seconds there, for FLOWS_CHAOS_SECONDS.
chaos: export FLOWS_CHAOS_SECONDS ?= 300
chaos: $(READY) ## kill -9 of every process of a deployment, for FLOWS_CHAOS_SECONDS (300)
	$(VENV)/bin/pytest tests/deploy/test_services.py -k killed

lint: $(READY) ## ruff, mypy, the layers of app/, sqlfluff
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/mypy examples/backend-for-frontend/server.py
	$(VENV)/bin/lint-imports --no-logo
	$(VENV)/bin/sqlfluff lint sql

bench: $(READY) ## the benchmarks; ONLY=rest runs one, JSON=1 prints JSON
	$(VENV)/bin/python -m tests.bench $(if $(ONLY),--only $(ONLY)) $(if $(JSON),--json)

# Primary, replica, PgBouncer, two PostgRESTs, three gateways and Caddy; about a minute and a half.
scale-demo: $(READY) ## a grown deployment under load, of which each part is killed in turn
	$(VENV)/bin/python -m tests.bench.scale

clients: export FLOWS_TOKEN = $(TOKEN)
clients: $(READY) ## types of clients/ from the document of a running gateway: URL=… TOKEN=…
	$(VENV)/bin/python -m clients.generate $(or $(URL),http://127.0.0.1:8000)

# Writes the generated pages and the site in site/, which is served by gateways started afterwards.
docs: export NO_MKDOCS_2_WARNING = 1
docs: $(READY) ## the site in site/, with its generated pages
	$(VENV)/bin/python -m docs.generators
	$(VENV)/bin/python -m mkdocs build --strict --quiet
