# Every target sets up what it needs on a machine that has only Python 3.11 (or 3.12) and make.
#   make run [SCALE=tiny]   the whole pipeline through DVC      make test        fast tests and the smoke pipeline
#   make smoke              a first look in five minutes        make test-slow   kill -9, several processes, full disk
#   make dashboard          MLflow in the browser               make lint        ruff and mypy
#   make test-sglang        against the real SGLang on the CPU, in an environment of its own (2 GB)
SHELL := /bin/bash
SCALE ?=
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SGLANG := .venv-sglang
SGLANG_STAMP := $(SGLANG)/.installed

export DVC_NO_ANALYTICS := 1
export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export MLFLOW_DISABLE_TELEMETRY := true
export GX_ANALYTICS_ENABLED := False
export GRADIO_ANALYTICS_ENABLED := False
export PATH := $(abspath $(BIN)):$(PATH)

.PHONY: run smoke flow test test-slow test-sglang lint dashboard setup setup-sglang
.DEFAULT_GOAL := run

run: setup
	@python -m flows.run --scale "$(SCALE)"

smoke: setup
	@python -m flows.run --scale smoke

flow: setup
	@python -m flows.pipeline --scale "$(SCALE)"

test: setup
	SIGN_OF_LIFE_FD=3 python -m pytest -m "not slow and not sglang" -v --durations=15 tests 3>&1

test-slow: setup
	SIGN_OF_LIFE_FD=3 python -m pytest -m slow -v --durations=15 tests 3>&1

test-sglang: setup setup-sglang
	SIGN_OF_LIFE_FD=3 python -m pytest -m sglang -v --durations=15 tests 3>&1

lint: setup
	ruff check .
	ruff format --check .
	mypy

dashboard: setup
	mlflow ui --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///$(CURDIR)/mlflow.db}" --host 127.0.0.1 --port 5000

setup: $(STAMP)
	@test -d .dvc || dvc init --quiet $$(git rev-parse --git-dir >/dev/null 2>&1 || echo --no-scm)
	@git rev-parse --git-dir >/dev/null 2>&1 || dvc config --local core.no_scm true

$(STAMP): pyproject.toml constraints.txt
	@echo "Installing into $(VENV), two or three minutes the first time"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# SGLang pins an older transformers. Three packages come without what they ask for: CUDA libraries, of no use to a CPU.
setup-sglang: $(SGLANG_STAMP)

$(SGLANG_STAMP): requirements-sglang.txt requirements-sglang-bare.txt
	@echo "Installing SGLang into $(SGLANG), a minute or two the first time"
	test -x $(SGLANG)/bin/python || $(PYTHON) -m venv $(SGLANG)
	$(SGLANG)/bin/python -m pip install --disable-pip-version-check -r requirements-sglang.txt
	$(SGLANG)/bin/python -m pip install --disable-pip-version-check --no-deps -r requirements-sglang-bare.txt
	@touch $@
