# What CI runs, in pieces. `make check` is all of it but the slow end-to-end parts.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: check lint types test docs dashboards demo end-to-end

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

# The service in a real systemd, as root on Debian; DIRECTORY keeps the system between runs.
.PHONY: boot
boot: $(BIN)/vllm-headroom
	tests/end_to_end/boot_systemd.sh $(DIRECTORY) $(BIN)/python

docs: $(BIN)/vllm-headroom
	$(BIN)/python -m exporter.reference

dashboards: $(BIN)/vllm-headroom
	$(BIN)/python -m dashboards.generate

# Judges the risk model over made-up histories (about half an hour on two cores) and writes its section of docs/risk.md.
.PHONY: backtest
backtest: $(BIN)/vllm-headroom
	$(BIN)/python -m bench.backtest

# Judges the risk of preemption on simulated and recorded engines (three minutes on two cores) and writes its section of
# docs/risk.md.
.PHONY: pressure-backtest
pressure-backtest: $(BIN)/vllm-headroom
	$(BIN)/python -m bench.pressure

.PHONY: docs-are-current
docs-are-current: docs dashboards
	git diff --exit-code -- METRICS.md docs/configuration.md dashboards/generated docs/runbooks/README.md

# Scores the estimator on real deployments and writes docs/accuracy.md. The packages it is compared with are optional:
# PACKAGES_PYTHON names the interpreter of an environment that has bench/accuracy/requirements.txt.
PACKAGES_PYTHON ?= $(BIN)/python
.PHONY: accuracy
accuracy: $(BIN)/vllm-headroom
	$(BIN)/python -m bench.accuracy --packages-python $(PACKAGES_PYTHON)

# Loads a real vLLM on the CPU, simulates the same load and writes docs/simulation.md: some minutes of a quiet machine.
.PHONY: fidelity
fidelity: $(BIN)/vllm-headroom
	$(BIN)/python -m bench.fidelity $(FIDELITY_FLAGS)

demo: $(BIN)/vllm-headroom
	$(BIN)/vllm-headroom demo
