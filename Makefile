# Every target creates `.venv` and installs the dependencies first, if they have changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.PHONY: demo test lint types docs package clean

demo: $(READY)  ## train both stages on the built-in digits and sample, in demo/
	rm -rf demo && mkdir demo
	cd demo && ../$(BIN)/imgtf tokenizer train
	cd demo && ../$(BIN)/imgtf prior train
	cd demo && ../$(BIN)/imgtf sample --n 64 --top-k 100
	@echo "The grid of samples: demo/model/samples/001/grid.png"

test: lint types  ## style, types and tests
	$(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The repository root is the package `imgtf`, whatever the name of the folder: mypy sees it through a link.
types: $(READY)
	mkdir -p $(VENV)/src && ln -sfn "$(CURDIR)" $(VENV)/src/imgtf
	MYPYPATH=$(VENV)/src $(BIN)/mypy -p imgtf

docs: $(READY)  ## the docs site, in site/; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

package:  ## wheel and sdist, the wheel in fresh environments, each extra alone: about 10 minutes
	PYTHON=$(PYTHON) benchmarks/packaging.sh

$(READY): pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) demo build site *.egg-info .mypy_cache .ruff_cache .pytest_cache
