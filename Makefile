# make quickstart         a real study on real data: set up, then run studies/quickstart.yaml
# make test               set up the same way, then every check: lint, types, imports, tests
# make test-integration   tests against real servers and Ray nodes; as root it installs what they need
# make test-cluster       tests against a real Kubernetes control plane and KubeRay, which Go builds once (some ten minutes)
# make test-python312     `pytest -q` on Python 3.12, where there is one beside the Python of .venv
# make test-node          the product on a real Kubernetes node; needs root, 25 GB of disk and 15 minutes
# make gpu                measures a GPU in nine minutes; needs no set-up where torch and gpu-carry/ are
# make gpu-carry          DATA="FILE.parquet ..." writes gpu-carry/, for a machine without a network
# make kill-matrix        kills parts of real studies at drawn moments; ARGS="--only worker/generation" runs one cell
# make setup | lint | types | imports | tests | format | lock | clean
#
# PYTHON=python3.12 chooses the interpreter that .venv is made from; ARGS="..." is handed to the study or to pytest.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.SILENT:
.DEFAULT_GOAL := help
.PHONY: help setup quickstart test lint types imports tests quick-tests test-integration test-cluster test-python312 test-node \
	kill-matrix gpu gpu-carry servers format lock clean

SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(shell for p in python3 python3.12 python3.11; do \
	$$p -c '$(SUPPORTED)' 2>/dev/null && { echo $$p; exit; }; done; echo python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/set-up
# The project's own Python: what a user puts beside it is neither linted nor formatted.
SOURCES := hidfd tune k8s benchmarks charts studies tests

# Two OpenMP threads that wait actively slow each other down when other work shares the cores.
export OMP_WAIT_POLICY ?= PASSIVE
export RAY_USAGE_STATS_ENABLED ?= 0
export MLFLOW_DISABLE_TELEMETRY ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK ?= 1
export UV_HTTP_TIMEOUT ?= 300
unexport VIRTUAL_ENV CONDA_PREFIX
# Each of the study's processes would compile some thousand modules anew: 8 s instead of 3.
unexport PYTHONDONTWRITEBYTECODE

help:
	sed -n 's/^# \{0,1\}//p' Makefile | head -10

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	command -v $(PYTHON) >/dev/null || {
		echo "error: no $(PYTHON) here; install Python 3.11 or 3.12, or name one: make PYTHON=/path/to/python3.12" >&2; exit 2; }
	$(PYTHON) -c '$(SUPPORTED)' || {
		echo "error: Python 3.11 or 3.12 is needed, but $(PYTHON) is $$($(PYTHON) -V 2>&1);" \
			"name another: make PYTHON=/path/to/python3.12" >&2; exit 2; }
	if [ ! -x $(BIN)/pip ]; then
		echo "set-up: making $(VENV) with $$($(PYTHON) -V)"
		$(PYTHON) -m venv --clear $(VENV)
	fi
	echo "set-up: installing $$(grep -c == requirements.lock) packages (1-2 minutes and 7 GB of disk the first time)"
	[ -x $(BIN)/uv ] || $(BIN)/pip install --quiet uv
	if [ -t 2 ]; then quiet=; else quiet=--quiet; fi
	$(BIN)/uv pip install $$quiet --python $(BIN)/python -r requirements.lock -e .
	touch $@
	echo "set-up: done in $$SECONDS s"

quickstart: $(STAMP)
	$(BIN)/python -m tune run studies/quickstart.yaml $(ARGS)

test: lint types imports tests

lint: $(STAMP)
	$(BIN)/ruff format --check --quiet --output-format concise $(SOURCES) || { echo "lint: run make format" >&2; exit 1; }
	$(BIN)/ruff check --quiet $(SOURCES)
	echo "lint: passed in $$SECONDS s"

types: $(STAMP)
	$(BIN)/mypy --no-error-summary
	echo "types: passed in $$SECONDS s"

imports: $(STAMP)
	$(BIN)/lint-imports --no-logo
	echo "imports: passed in $$SECONDS s"

tests: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 -m "not integration and not cluster" --durations 10 $(ARGS)
	echo "tests: passed in $$SECONDS s"

# Two files at a time: these tests wait half of their time. Fixtures of a file are made once.
test-integration: $(STAMP) servers
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadfile -m integration --durations 10 $(ARGS)
	echo "test-integration: passed in $$SECONDS s"

quick-tests: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 $(ARGS)
	echo "quick-tests: passed in $$SECONDS s"

# Two files at a time, each with a control plane: these tests wait most of their time.
# Without Go they skip and say how to get it; in CI nothing skips.
test-cluster: $(STAMP) servers
	$(BIN)/python -m tests.cluster.tools build || [ -z "$${CI:-}" ]
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadfile -m cluster tests/cluster --durations 10 $(ARGS)

# An environment of its own, in .venv-3.12. pyenv's shims of versions that are not active do not start.
test-python312:
	for python in python3.12 "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/3.12.*/bin/python; do
		if "$$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' 2>/dev/null; then
			exec $(MAKE) --no-print-directory VENV=.venv-3.12 PYTHON="$$python" quick-tests
		fi
	done
	echo "test-python312: skipped, no Python 3.12 here; get one: uv python install 3.12 puts python3.12 into ~/.local/bin"

# With containers, images and volumes, which the other tests do without. ARGS="--folder /large/disk" says where.
test-node: $(STAMP) servers
	missing=
	for program in containerd runc debootstrap jq; do command -v $$program >/dev/null || missing+=" $$program"; done
	[ -e /usr/lib/cni/bridge ] || missing+=' containernetworking-plugins'
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
		echo "set-up: installing$$missing"
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing >/dev/null
	fi
	$(BIN)/python -m tests.cluster.tools build control-plane operator helm4 node
	$(BIN)/python -m tests.node $(ARGS)

kill-matrix: $(STAMP) servers
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.integration.kills --write $(ARGS)

# With the Python of .venv where there is one. Packages that another one lacks are unpacked from gpu-carry, without pip.
gpu:
	python=$(BIN)/python
	[ -x $$python ] || python=$(PYTHON)
	$$python -c 'from importlib.util import find_spec; raise SystemExit(find_spec("torch") is None)' || {
		echo "error: $$python has no torch; name a Python that has: make gpu PYTHON=/path/to/python3.12" >&2; exit 2; }
	if ! $$python -c 'import pydantic' 2>/dev/null; then
		compgen -G 'gpu-carry/wheels/*.whl' >/dev/null || {
			echo "error: $$python has no pydantic, nor is there gpu-carry/wheels to take it from; where there is a" \
				"network, \`make gpu-carry\` writes that folder" >&2; exit 2; }
		packages=$$PWD/build/gpu-packages
		rm -rf $$packages
		for wheel in gpu-carry/wheels/*.whl; do $$python -m zipfile -e $$wheel $$packages; done
		export PYTHONPATH=$$packages$${PYTHONPATH:+:$$PYTHONPATH}
		$$python -c 'import pydantic' || {
			echo "error: the wheels in gpu-carry are for Python 3.12 on Linux (x86-64), not for $$($$python -V)" >&2; exit 2; }
	fi
	$$python -m benchmarks.gpu $(ARGS)

gpu-carry: $(STAMP)
	$(BIN)/python -m benchmarks.gpu.carry $(DATA) $(ARGS)

# What some tests start on loopback, each in a folder of its own; without it they skip and say how to get it.
servers: $(STAMP)
	missing=
	command -v postgres >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || missing+=' postgresql'
	command -v chromedriver >/dev/null || missing+=' chromium chromium-driver fonts-dejavu-core'
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
		echo "set-up: installing for the tests:$$missing"
		if [[ $$missing == *postgresql* ]]; then  # no cluster of its own
			mkdir -p /etc/postgresql-common
			echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
		fi
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
			-o Dpkg::Options::=--force-confold $$missing >/dev/null || echo "set-up: it could not be installed" >&2
	fi
	if command -v go >/dev/null && ! command -v versitygw >/dev/null && [ ! -x $(BIN)/versitygw ]; then
		echo "set-up: building an S3 server for the tests (two minutes of CPU time)"
		GOBIN="$$PWD/$(BIN)" go install github.com/versity/versitygw/cmd/versitygw@v1.8.0 >/dev/null 2>&1 ||
			echo "set-up: it could not be built; try: GOBIN=$$PWD/$(BIN) go install" \
				"github.com/versity/versitygw/cmd/versitygw@v1.8.0" >&2
	fi

format: $(STAMP)
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

# Without addresses, and for every supported Python and platform.
lock: $(STAMP)
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras --no-header --no-emit-index-url \
		--output-file requirements.lock pyproject.toml $(ARGS)
	echo "lock: $$(grep -c == requirements.lock) packages; ARGS=--upgrade takes newer ones"

# Not .hidfd: nothing that a user made is deleted here (`python -m hidfd store remove` does that).
clean:
	rm -rf .venv .venv-3.12 build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -exec rm -rf {} +
