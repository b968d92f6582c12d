# `make help` lists the commands. PYTHON= names the Python that .venv is made with, PORT= the port of
# `make lab`, CONSTRAINTS= another file of pinned versions.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help lab site test test-fast test-full lint bench clean

# The user's own python3 where it is new enough, otherwise the newest one; the script checks again.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null \
	&& echo $$p && exit; done; echo python3)
CONSTRAINTS ?= constraints.txt

BOOTSTRAP = $(PYTHON) tools/bootstrap.py --constraints $(CONSTRAINTS)
PYTEST = .venv/bin/python -m pytest -n 2 --dist loadfile
UNIT = tests -m "not slow and not browser and not notebook"
TYPECHECKED = tests -m "not slow and not browser and not notebook and not no_typecheck" \
	--jaxtyping-packages=lossbook,beartype.beartype
NOTEBOOKS = notebooks --nbval-lax --nbval-current-env

# Two workers share two cores: one thread each.
test test-fast test-full: export OMP_NUM_THREADS = 1

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

lab: ## open the book in JupyterLab (PORT=8888)
	@$(BOOTSTRAP) book
	@.venv/bin/lossbook lab

site: ## build the book as a static site, in build/site
	@$(BOOTSTRAP) book site
	@.venv/bin/python -m lossbook.site

test: ## run every check (up to 10 minutes)
	@$(BOOTSTRAP) book test course site sweep --browser
	@$(PYTEST) $(TYPECHECKED)
	@$(PYTEST) tests $(NOTEBOOKS)

test-fast: ## run the unit tests (under two minutes)
	@$(BOOTSTRAP) book test course site sweep
	@$(PYTEST) $(UNIT)

test-full: export LOSSBOOK_FULL = 1
test-full: test ## run every check on every notebook, current ones too

lint: ## check the style of code and notebooks
	@$(BOOTSTRAP) book test
	@.venv/bin/python -m ruff check .
	@.venv/bin/python -m ruff format --check .

bench: ## compare speed and memory with other libraries
	@$(BOOTSTRAP) book test bench --browser
	@.venv/bin/lossbook bench

clean: ## remove the environment and what the tools leave behind
	rm -rf .venv build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find . -name .ipynb_checkpoints -type d -prune -exec rm -rf {} +
