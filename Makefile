# Every target does its own set-up: quick when nothing has changed.
PYTHON ?= python3
WORKERS ?= 2
# Compiled modules are kept, whatever the shell says: hundreds of processes would compile all they import anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test check format clean

help:
	@echo "make demo [ONCE=1]  the whole platform on simulated traffic (ONCE=1: stop at the end, exit 0 only if all checks hold)"
	@echo "make test [ARGS=…]  every test, against real servers that are started here"
	@echo "make check          style, types, house rules, contracts"
	@echo "make format         format the code"
	@echo "make setup          only the environments: .venv, .venv-bigquery, .venv-mongo"
	@echo "make clean          stop the local stack; remove its data and the environments"

setup:
	@$(PYTHON) tools/set_up.py

demo: setup
	@.venv/bin/dataplatform demo $(if $(ONCE),--once)

test: setup
	@.venv/bin/pytest --numprocesses $(WORKERS) --dist loadfile $(ARGS)

check: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/dataplatform contracts check
	.venv/bin/dataplatform contracts build --check

format: setup
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

clean:
	@[ ! -x .venv/bin/dataplatform ] || .venv/bin/dataplatform down
	rm -rf .data .venv .venv-bigquery .venv-mongo .tools
