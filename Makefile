# Every target sets up what it needs by itself, in .venv, from pinned versions with hashes.
.DEFAULT_GOAL := help
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
T ?=

.PHONY: help run demo vault test check format bench clients conformance crash torture lock pin clean

help: ## say what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

run: $(VENV)/.run ## serve the gate before a real issue tracker and a CRM, with demo callers
	@PORT=$(PORT) TRACKER_PORT=$(TRACKER_PORT) $(BIN)/python -m examples.demo.run

demo: $(VENV)/.run ## the same, and tell the story as an MCP client; exits 0 only if all of it happened
	@$(BIN)/python -m examples.demo.story

vault: $(VENV)/.dev ## the gate before OpenBao and PostgreSQL, a database user for each call (KEEP=1 to stay up)
	@$(BIN)/python -m examples.vault.run $(if $(KEEP),--keep)

test: $(VENV)/.dev ## run the tests (T="-k name" for some)
	$(BIN)/python -m pytest $(if $(CI),-p no:randomly) $(if $(T),--no-cov $(T))
	$(if $(T),,@for part in server adapters; do \
		total=$$($(BIN)/coverage report --include="$$part/*" --format=total --fail-under=95) || \
			{ echo "branch coverage of $$part: $$total %, less than 95 %"; exit 1; }; \
		echo "branch coverage of $$part: $$total %"; done)

check: $(VENV)/.dev ## format, lint, types, and the rules of the house
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(VENV)/.dev ## format the code and mend what can be mended
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: $(VENV)/.dev ## measure the governed tool against the same tool on a bare SDK server, and on FastMCP with auth, rate limits and logging
	$(BIN)/python -m bench.run
	$(BIN)/python -m bench.run --database postgresql --connections 1 8 32
	$(BIN)/python -m bench.stages
	$(BIN)/python -m bench.policy
	$(BIN)/python -m bench.credentials

clients: $(VENV)/.dev ## let eight MCP clients list, read, write, repeat and be refused (NAMES="fastmcp inspector" for some)
	@$(BIN)/python -m examples.clients.run --types $(NAMES)

conformance: $(VENV)/.dev ## run the official MCP conformance suite against the gate (PAGE=file writes what was seen)
	$(BIN)/python -m tests.conformance.run $(if $(PAGE),--page $(PAGE))

crash: $(VENV)/.dev ## kill gates in the middle of calls, 300 times on SQLite and 100 on PostgreSQL, and see that every promise is kept
	$(BIN)/python -m tests.torture --database both --kills 300 --seed $(or $(SEED),1) --at-once 3

torture: $(VENV)/.dev ## the same, 3000 and 1000 times, and write docs/reference/torture.md; then fire at a gate for ten minutes
	$(BIN)/python -m tests.torture --database both --kills 3000 --seed $(or $(SEED),100) --at-once 3 --page docs/reference/torture.md
	$(BIN)/python -m tests.fuzz --minutes $(or $(MINUTES),10)

lock: $(VENV)/.dev ## write the lock files anew
	./requirements/lock.sh

pin: $(VENV)/.dev ## pin the operations that the shipped registries admit, once they are reviewed
	$(BIN)/toolgate registry lock --root server/toolgate/starter
	$(BIN)/toolgate registry lock --root examples/vault/gate
	TOOLGATE_REGISTRY=$(CURDIR)/registry $(BIN)/toolgate registry lock --root server/toolgate/starter

clean: ## remove what was made
	rm -rf $(VENV) .clients .demo .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache dist

# uv installs in seconds what takes pip half a minute; where it cannot reach its index, pip does it.
define install
	$(BIN)/uv pip sync --quiet --compile-bytecode --require-hashes --python $(BIN)/python $(1) || \
		$(BIN)/python -m pip install --quiet --require-hashes -r $(1)
	$(BIN)/uv pip install --quiet --no-deps --no-build-isolation --python $(BIN)/python -e . || \
		$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
endef

$(VENV)/bin/uv: requirements/uv.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.lock
	@touch $@

# The development environment holds everything that running needs: it is never replaced by the smaller one.
$(VENV)/.run: $(VENV)/bin/uv requirements/run.lock pyproject.toml
	$(if $(wildcard $(VENV)/.dev),$(call install,requirements/dev.lock),$(call install,requirements/run.lock))
	@touch $@

$(VENV)/.dev: $(VENV)/bin/uv requirements/dev.lock pyproject.toml
	$(call install,requirements/dev.lock)
	@touch $@
