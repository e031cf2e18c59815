# The two commands: `make run` and `make test`. Both first set up two environments if they are not there: .venv has commands and
# flows with the current Prefect, .venv/stage what the stages compute with. The latter holds everything: tests run in it.
PYTHON ?= python3.11
VENV := .venv
STAGE := $(VENV)/stage
BIN := $(STAGE)/bin
RLHF := $(VENV)/bin/rlhf
READY := $(VENV)/.ready
LOCKS := infra/requirements
INSTALL := -m pip install --quiet --no-deps
WORKERS ?= 2
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: run test test-slow learning-curves bench bench-data docs setup control control-packages platform-packages stage-packages lock lint format clean

run: $(READY)
	$(RLHF) run quickstart

test: lint
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

# What takes too long for every change, or needs PostgreSQL: three seeds of the quickstart, serving, faults, ...: about two hours.
test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

# PPO, GRPO, RLOO and DPO over seeds 1 to 5 of the quickstart: a figure in .rlhf; about an hour on two cores.
learning-curves: $(READY)
	$(BIN)/python -m flows.sweeps.learning_curves

# Speed and memory beside TRL (in .venv/stage/bench), the plain model and raw vLLM, on a quiet machine: 23 minutes on two cores.
# BENCH="--only ppo-equal" for a part; infra/docs/results/speed.md explains the table.
bench: $(READY)
	$(BIN)/python infra/bench/run.py $(BENCH)

# Time and memory of the validate stage on 20,000 and 100,000 pairs of 500 characters: some minutes. PAIRS=1000000 for the goal.
bench-data: $(READY)
	$(BIN)/python infra/bench/validate_pairs.py $(PAIRS)

# The documentation as a site in build/docs, its links checked: seconds, after .venv/stage/docs is set up once (a minute).
docs: $(READY)
	$(BIN)/python infra/docs-site/build_site.py

setup: $(READY)

# The side of commands alone, without torch: what a laptop needs to deploy to a server and to compare and promote there.
control: control-packages
	$(VENV)/bin/python $(INSTALL) --editable .

# The locked requirements anew from pyproject.toml; LOCK=--upgrade for newer versions, LOCK=--check to compare. Needs a package index.
lock:
	test -x $(VENV)/lock/bin/uv || ($(PYTHON) -m venv $(VENV)/lock && $(VENV)/lock/bin/python -m pip install --quiet uv==0.13.9)
	$(VENV)/lock/bin/python infra/lock.py $(LOCK)

# Both at once: what pip does takes one core. Files that both have are kept once (hard links), which saves a gigabyte.
$(READY): $(LOCKS)/control.txt $(LOCKS)/cpu.txt $(LOCKS)/platform.txt
	@test ! -d $(VENV)/lib/python3.11/site-packages/torch || { echo "$(VENV) is of an earlier release, which had one" \
	"environment; expected commands without torch there, and the stages in $(STAGE). Remove it (rm -r $(VENV)), and try again." >&2; exit 2; }
	$(MAKE) --no-print-directory --jobs=2 platform-packages stage-packages
	$(BIN)/python $(INSTALL) --no-build-isolation --editable .
	$(VENV)/bin/python $(INSTALL) --editable .
	$(BIN)/python infra/share_packages.py $(STAGE) $(VENV)
	$(BIN)/python -m flows.platform.database
	$(VENV)/bin/python -m flows.platform.database
	touch $@

# One after the other, as the second lies in the first and a folder that both make fails one of them. pip is what venv writes last.
$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

$(BIN)/pip: | $(VENV)/bin/pip
	$(PYTHON) -m venv $(STAGE)

control-packages: | $(VENV)/bin/pip
	$(VENV)/bin/python $(INSTALL) --no-compile -r $(LOCKS)/control.txt

platform-packages: control-packages
	$(VENV)/bin/python $(INSTALL) --upgrade --target $(VENV)/platform -r $(LOCKS)/platform.txt

stage-packages: | $(BIN)/pip
	$(BIN)/python $(INSTALL) -r $(LOCKS)/cpu.txt
	$(BIN)/python -m rlhf_core.engine.warmup

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
