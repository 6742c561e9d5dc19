# One command per job; `make` alone lists them. Everything runs in the virtual environment $(VENV), which is created
# with $(PYTHON) when it is missing and brought up to date when pyproject.toml or constraints.txt change.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Further arguments: PIP_ARGS for every `pip install` (such as the index of torch's CPU builds, which spare a machine
# without a GPU some gigabytes), PYTEST_ARGS for pytest, DEMO_ARGS for the demo's training run, SOAK_ARGS for the kills,
# GPU_ARGS for the benchmark of a GPU.
PIP_ARGS ?=
PYTEST_ARGS ?=
DEMO_ARGS ?=
SOAK_ARGS ?=
GPU_ARGS ?=
BENCHMARKS ?= benchmarks/gram.py benchmarks/qklstm_step.py benchmarks/store.py benchmarks/farming.py benchmarks/executors.py benchmarks/structure.py benchmarks/planner.py benchmarks/qpu.py benchmarks/learning.py

comma := ,
step = @printf '\n==> %s\n' "$(1)"
pip_install = $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt $(PIP_ARGS)

# --- jobs ------------------------------------------------------------------------------------------------------------
.PHONY: help demo test test-device-suite test-slurm slurm lint format bench gpu-check soak clean distclean same-python

help: ## list the commands
	@printf 'usage: make COMMAND   (another interpreter: PYTHON=python3.12 make COMMAND)\n\n'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.installed-dqk ## install, then train the QK-LSTM on the two sentences of the paper
	$(call step,dqk train pos --preset table1 --seed 0)
	@$(BIN)/python -m dqk train pos --preset table1 --seed 0 $(DEMO_ARGS)

test: lint ## install the development tools, then lint, check types and layers, run the tests and doctests
	$(call step,tests and doctests)
	@$(BIN)/python -m pytest $(PYTEST_ARGS)
	$(call step,the same bits on every executor$(comma) with another BLAS core)
	@OPENBLAS_CORETYPE=Haswell $(BIN)/python -m pytest tests/cluster/test_same_bits.py

test-slurm: $(VENV)/.installed-dev slurm ## install a Slurm (as root, on Debian and Ubuntu), then run jobs on it
	$(call step,jobs on a real Slurm)
	@DQK_REQUIRE="slurm,shellcheck,$${DQK_REQUIRE:-}" $(BIN)/python -m pytest tests/slurm tests/cluster/launchers $(PYTEST_ARGS)

slurm:
	@lacks=; for program in slurmctld slurmd sbatch munged shellcheck; do \
	  PATH=$$PATH:/usr/sbin command -v $$program >/dev/null || lacks=$$program; done; \
	[ -z "$$lacks" ] || { \
	  [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null || { \
	    echo "error: the tests of jobs need slurmctld, slurmd, slurm-client, munge and shellcheck, and root to run them;" \
	         "install them, or use a container of Debian" >&2; exit 1; }; \
	  printf '\n==> installing Slurm and ShellCheck with apt-get\n'; \
	  apt-get -q update >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install \
	    slurmctld slurmd slurm-client munge shellcheck >/dev/null; }

test-device-suite: $(VENV)/.installed-dev ## run PennyLane's device tests on dqk.qpu and on lightning.qubit, and compare
	$(call step,pl-device-test on dqk.qpu and on lightning.qubit)
	@$(BIN)/python -m tests.qpu.device_suite

lint: $(VENV)/.installed-dev ## ruff, mypy and the layer contracts
	$(call step,ruff check)
	@$(BIN)/python -m ruff check .
	$(call step,ruff format --check)
	@$(BIN)/python -m ruff format --check .
	$(call step,mypy)
	@$(BIN)/python -m mypy
	$(call step,layer contracts)
	@$(BIN)/python $(BIN)/lint-imports --no-logo --no-cache

format: $(VENV)/.installed-dev ## rewrite the sources in the project's format
	@$(BIN)/python -m ruff check --fix-only .
	@$(BIN)/python -m ruff format .

bench: $(VENV)/.installed-bench ## measure dqk against other programs, in the same run
	@for file in $(BENCHMARKS); do printf '\n==> %s\n' "$$file"; $(BIN)/python "$$file"; done

gpu-check: ## on a machine with a GPU: its tests, then its benchmark (installs nothing; BIN names the environment)
	@$(BIN)/python benchmarks/gpu.py --check
	$(call step,tests on the GPU)
	@$(BIN)/python -m pytest -m gpu tests/gpu $(PYTEST_ARGS)
	$(call step,benchmarks/gpu.py)
	@$(BIN)/python benchmarks/gpu.py --json auto $(GPU_ARGS)

soak: $(VENV)/.installed-dev ## kill what writes to a store 200 times, at random, and check what is left (SOAK_ARGS)
	@$(BIN)/python -m tests.soak $(SOAK_ARGS)

clean: ## remove caches and built packages (training runs and the environment stay)
	@rm -rf build dist site htmlcov .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +

distclean: clean ## also remove the virtual environment
	@rm -rf $(VENV)

# --- the virtual environment -----------------------------------------------------------------------------------------
# An environment that works is kept, whoever made it; one whose interpreter is gone or too old is made anew.
supported := import sys; sys.exit(sys.version_info < (3, 11))
version := import sys; print("%d.%d" % sys.version_info[:2])
venv_works := $(shell $(BIN)/python -c '$(supported)' 2>/dev/null && echo yes)

$(VENV)/.installed-dqk: pyproject.toml constraints.txt $(VENV)/pyvenv.cfg
	$(call step,installing dqk into $(VENV) (takes minutes the first time))
	@$(pip_install) -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt $(VENV)/pyvenv.cfg
	$(call step,installing dqk and the development tools into $(VENV) (takes minutes the first time))
	@$(pip_install) -e '.[dev]'
	@touch $(VENV)/.installed-dqk $@

$(VENV)/.installed-bench: pyproject.toml constraints.txt $(VENV)/pyvenv.cfg
	$(call step,installing dqk and the programs it is measured against into $(VENV) (takes minutes the first time))
	@$(pip_install) -e '.[bench]'
	@touch $(VENV)/.installed-dqk $@

ifeq ($(venv_works),yes)
$(VENV)/pyvenv.cfg: | same-python
else
.PHONY: $(VENV)/pyvenv.cfg
$(VENV)/pyvenv.cfg:
	$(call step,creating $(VENV) with $(PYTHON))
	@$(PYTHON) -c '$(supported)' || { \
	  echo "error: dqk needs Python 3.11 or newer; name such an interpreter: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; \
	  exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) || { \
	  echo "error: $(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; \
	  rm -rf $(VENV); exit 1; }
endif

# An interpreter asked for by name must be the one in the environment.
same-python:
ifneq ($(origin PYTHON),file)
	@have=$$($(BIN)/python -c '$(version)'); want=$$($(PYTHON) -c '$(version)'); \
	[ "$$have" = "$$want" ] || { \
	  echo "error: $(VENV) holds Python $$have, PYTHON=$(PYTHON) is $$want;" \
	       "choose another folder (make VENV=.venv-$$want $(MAKECMDGOALS)) or remove this one (make distclean)" >&2; \
	  exit 1; }
endif
