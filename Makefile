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

# A real vLLM on the CPU; tests/install_vllm.sh puts one where VLLM_HEADROOM_TEST_VLLM then points. Without it every test
# would be skipped, and that must not pass.
end-to-end: $(BIN)/vllm-headroom
	VLLM_HEADROOM_NO_SKIPS=1 $(BIN)/pytest -m needs_vllm

# The service in a real systemd, as root on Debian; DIRECTORY keeps the system between runs.
.PHONY: boot
boot: $(BIN)/vllm-headroom
	tests/end_to_end/boot_systemd.sh $(DIRECTORY) $(BIN)/python

docs: $(BIN)/vllm-headroom
	$(BIN)/python -m exporter.reference

dashboards: $(BIN)/vllm-headroom
	$(BIN)/python -m dashboards.generate

# Judges the risk model over made-up histories (eleven minutes on two cores) and writes its section of docs/risk.md.
.PHONY: backtest
backtest: $(BIN)/vllm-headroom
	$(BIN)/python -m bench.backtest

# Plays stories of an hour and more to the whole daemon over stand-in GPUs, its alerts evaluated by a real Prometheus
# (twelve minutes; needs cc and prometheus), and writes its section of docs/risk.md.
.PHONY: live-risk
live-risk: $(BIN)/vllm-headroom
	$(BIN)/python -m bench.live_risk

# Holds our NVML readings of this machine's GPUs against nvidia-smi and CUDA, and writes build/gpu-check.json, a capture
# to test with. Only reads; without a GPU it says so and is content. GPU_CHECK_FLAGS="--write FILE" writes elsewhere.
.PHONY: gpu-check
gpu-check: $(BIN)/vllm-headroom
	$(BIN)/python -m bench.gpu_check $(GPU_CHECK_FLAGS)

# Fills a GPU that nobody uses until CUDA runs out of memory, and writes down what the daemon said before.
# GPU_OOM_FLAGS="--story spike" or arrival; leak is the default.
.PHONY: gpu-oom
gpu-oom: $(BIN)/vllm-headroom
	$(BIN)/python -m bench.gpu_oom $(GPU_OOM_FLAGS)

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

# How long plan takes to answer: a minute of a quiet machine; writes its section of docs/capacity.md.
.PHONY: plan-bench
plan-bench: $(BIN)/vllm-headroom
	$(BIN)/python -m bench.planning

# Loads a real vLLM on the CPU, simulates the same load and writes docs/simulation.md: some minutes of a quiet machine.
.PHONY: fidelity
fidelity: $(BIN)/vllm-headroom
	$(BIN)/python -m bench.fidelity $(FIDELITY_FLAGS)

# The demo under a real Prometheus and Alertmanager for 17 minutes; writes when each alert came into docs/dashboards.md.
.PHONY: alerts
alerts: $(BIN)/vllm-headroom
	$(BIN)/python -m bench.alerts

# Sweeps max-num-seqs on a real vLLM on the CPU, judges what is advised by it and writes its section of docs/tuning.md.
# Runs that are already in bench/tuning/runs.jsonl are not made again.
.PHONY: tuning-bench
tuning-bench: $(BIN)/vllm-headroom
	$(BIN)/python -m bench.tuning run $(TUNING_FLAGS)

# Does every fault to the real daemon (about ten minutes) and writes its section of docs/endurance.md, as do the two below.
.PHONY: chaos soak fuzz
chaos: $(BIN)/vllm-headroom
	$(BIN)/python -m tests.endurance.campaign

# 100,000 polls while servers, processes and the driver come and go: three quarters of an hour of a quiet processor.
soak: $(BIN)/vllm-headroom
	$(BIN)/python -m tests.endurance.soak

# A minute of coverage-guided fuzzing for each parser. atheris has builds for some releases of Python only.
fuzz: $(BIN)/vllm-headroom
	$(BIN)/pip install --quiet atheris
	$(BIN)/python -m tests.fuzz.guided --seconds 60

# What the daemon costs beside nvitop-exporter, some fifteen minutes, and writes docs/performance.md. In a PID namespace of
# its own, so that the machine's other processes and servers are not taken for the made-up host's.
PEER ?= build/peer
.PHONY: bench
bench: $(BIN)/vllm-headroom $(PEER)/bin/nvitop-exporter
	unshare --map-root-user --pid --fork --kill-child --mount-proc \
	    $(BIN)/python -m bench.performance --peer $(PEER)/bin/nvitop-exporter $(BENCH_FLAGS)

$(PEER)/bin/nvitop-exporter: bench/performance/requirements.txt
	$(PYTHON) -m venv $(PEER)
	$(PEER)/bin/pip install --quiet --requirement $<
	@touch $@

demo: $(BIN)/vllm-headroom
	$(BIN)/vllm-headroom demo
