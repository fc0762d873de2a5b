# make demo: few-shot adaptation on real handwriting, from nothing to a table.
# make test: the test suite.    make test-long: what takes longer (ONLY=tests/docs: a part of it).
# make coverage: the lines that tests run.
# make check: linter, format, types and layers.    make layers: who may import whom.    make docs: the site, in site/.
# make wheel: what is published, in dist/.    make lock: requirements.lock, anew.
# make platforms: whether every package has a wheel for Linux, macOS and Windows.
PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest --numprocesses=auto --dist=loadfile
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-long coverage check layers docs wheel lock platforms clean

demo: .venv/installed
	$(BIN)/pini train --config=digits --workdir=runs/digits

test: .venv/installed-test
	$(PYTEST)

test-long: .venv/installed-test
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(PYTEST) -m long $(ONLY)

coverage: .venv/installed-test
	$(PYTEST) --cov=pini_jax --cov-report=term:skip-covered --cov-report=html:.cache/coverage

check: .venv/installed-test layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

layers: .venv/installed-test
	$(BIN)/lint-imports

docs: .venv/installed-dev
	$(BIN)/mkdocs build --strict

wheel: .venv/installed-dev
	$(BIN)/python -m build --outdir dist

lock: .venv/installed-dev
	$(BIN)/uv pip compile pyproject.toml --extra all --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --custom-compile-command "make lock" --upgrade --quiet --output-file requirements.lock

# `promise`, which TensorFlow Datasets needs, has no wheel at all, and is plain Python. The ONNX runtime wants macOS 14.
platforms: export MACOSX_DEPLOYMENT_TARGET = 14.0
platforms: .venv/installed-dev
	for extra in report all; do for python in 3.11 3.12 3.13; do for platform in linux macos windows; do \
	  $(BIN)/uv pip compile pyproject.toml --extra $$extra --python-platform $$platform --python-version $$python \
	    --only-binary :all: --no-binary promise --quiet --output-file .venv/resolved && \
	  echo "$$platform, Python $$python, pini_jax[$$extra]: $$(grep -c == .venv/resolved) packages" || exit 1; \
	done; done; done

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "pini_jax needs Python 3.11 or newer")'
	@echo "Installing into .venv (a minute or two)"
	@$(PYTHON) -m venv .venv
	@$(INSTALL) -e .
	@touch $@

.venv/installed-test: .venv/installed
	@$(INSTALL) -e '.[all,test]'
	@touch $@

.venv/installed-dev: .venv/installed-test
	@$(INSTALL) -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv .cache runs build dist site *.egg-info
