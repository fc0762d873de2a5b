# make demo: few-shot adaptation on real handwriting, from nothing to a table.
# make test: the whole test suite.    make check: linter and type checker.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check clean

demo: .venv/installed
	$(BIN)/python -m pini_jax.main --config=configs/digits.py --workdir=runs/digits

test: .venv/installed-test
	$(BIN)/python -m pytest --numprocesses=auto --dist=loadfile

check: .venv/installed-test
	$(BIN)/ruff check
	$(BIN)/mypy

.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "pini_jax needs Python 3.11 or newer")'
	@echo "Installing into .venv (one to three minutes)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/installed-test: .venv/installed pyproject.toml
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@

clean:
	rm -rf .venv .cache runs build *.egg-info
