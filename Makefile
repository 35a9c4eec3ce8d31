# What CI runs, in pieces. `make check` is all of it but the slow end-to-end parts.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: check lint types test docs demo end-to-end

check: lint types test docs-are-current

$(BIN)/vllm-headroom: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@

lint: $(BIN)/vllm-headroom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(BIN)/vllm-headroom
	$(BIN)/mypy

test: $(BIN)/vllm-headroom
	$(BIN)/pytest -m 'not needs_vllm'

# A real vLLM on the CPU; tests/install_vllm.sh puts one where VLLM_HEADROOM_TEST_VLLM then points.
end-to-end: $(BIN)/vllm-headroom
	$(BIN)/pytest -m needs_vllm

docs: $(BIN)/vllm-headroom
	$(BIN)/python -m exporter.reference

# Judges the risk model over made-up histories (about a quarter of an hour on two idle cores) and writes its section of docs/risk.md.
.PHONY: backtest
backtest: $(BIN)/vllm-headroom
	$(BIN)/python -m bench.backtest

.PHONY: docs-are-current
docs-are-current: docs
	git diff --exit-code -- METRICS.md

demo: $(BIN)/vllm-headroom
	$(BIN)/vllm-headroom demo
