# The two commands: `make run` and `make test`. Both set up .venv first if it is not there.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CONTROL := $(VENV)/control
WORKERS ?= 2
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: run test test-slow learning-curves bench bench-data docs setup control lock lint format clean

run: $(READY)
	$(BIN)/rlhf run quickstart

test: lint
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

# What takes too long for every change, or needs PostgreSQL: three seeds of the quickstart, serving, faults, ...: about two hours.
test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

# PPO, GRPO, RLOO and DPO over seeds 1 to 5 of the quickstart: a figure in .rlhf; about an hour on two cores.
learning-curves: $(READY)
	$(BIN)/python -m flows.sweeps.learning_curves

# Speed and memory beside TRL (in .venv/bench), the plain model and raw vLLM, on a quiet machine: 23 minutes on two cores.
# BENCH="--only ppo-equal" for a part; infra/docs/results/speed.md explains the table.
bench: $(READY)
	$(BIN)/python infra/bench/run.py $(BENCH)

# Time and memory of the validate stage on 20,000 and 100,000 pairs of 500 characters: some minutes. PAIRS=1000000 for the goal.
bench-data: $(READY)
	$(BIN)/python infra/bench/validate_pairs.py $(PAIRS)

# The documentation as a site in build/docs, its links checked: seconds, after .venv/docs is set up once (a minute).
docs: $(READY)
	$(BIN)/python infra/docs-site/build_site.py

setup: $(READY)

# Commands and flows in an environment of their own, .venv/control, with the current Prefect; the stages stay in .venv: a minute.
control: $(CONTROL)/.ready

$(CONTROL)/.ready: $(READY) infra/requirements/control.txt
	test -x $(CONTROL)/bin/python || $(PYTHON) -m venv $(CONTROL)
	$(CONTROL)/bin/python -m pip install --quiet --no-deps -r infra/requirements/control.txt
	$(CONTROL)/bin/python -m pip install --quiet --no-deps --editable .
	touch $@

# The locked requirements anew from pyproject.toml; LOCK=--upgrade for newer versions, LOCK=--check to compare. Needs a package index.
lock:
	test -x $(VENV)/lock/bin/uv || ($(PYTHON) -m venv $(VENV)/lock && $(VENV)/lock/bin/python -m pip install --quiet uv==0.13.9)
	$(VENV)/lock/bin/python infra/lock.py $(LOCK)

$(READY): infra/requirements/cpu.txt infra/requirements/platform.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-deps -r infra/requirements/cpu.txt
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)/platform -r infra/requirements/platform.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	$(BIN)/python -m rlhf_core.engine.warmup
	touch $@

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

# Format, and correct what ruff can correct.
format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .rlhf build *.egg-info .mypy_cache
