# Everything works in .venv of this checkout, which the first target that needs it makes.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint bench lnd clean

$(READY): pyproject.toml requirements.lock
	@test -n "$(PYTHON)" || { echo "Farebox needs Python 3.11 or newer; set PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[dev]'
	@touch $(READY)

demo: $(READY)  ## an agent's conversation on embedded parts; ONCE=1 ends by itself, PORT=... listens elsewhere
	$(BIN)/farebox demo $(if $(ONCE),--once) $(if $(PORT),--port $(PORT))

test: $(READY)  ## all tests; WORKERS=4 runs so many files at once, where the machine has the cores
	$(BIN)/python -m pytest $(if $(WORKERS),-n $(WORKERS) --dist loadfile)

lint: $(READY)  ## style, types, imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)  ## speed against peers on the same simulated upstream
	$(BIN)/farebox bench

lnd: $(READY)  ## build the real Lightning node for tests (needs Go 1.24 or newer)
	$(BIN)/python tests/lnd/build.py

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage farebox-data
