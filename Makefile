# `make demo` and `make test` each set everything up by themselves.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test bench clean

demo: $(VENV)/demo.stamp
	$(BIN)/xbench demo

test: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist worksteal

bench: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -s -m benchmark tests/benchmarks

clean:
	rm -rf $(VENV)

$(VENV)/demo.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e .
	touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt $(VENV)/demo.stamp
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	touch $@
