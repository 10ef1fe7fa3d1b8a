# The two commands of a new machine: `make run` and `make test`. Everything else is one line of help away: `make help`.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export GX_ANALYTICS_ENABLED := false

.DEFAULT_GOAL := help
.PHONY: help setup run data profile promote pipeline test check lock samples clean

help:  ## Show this
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -t -s $$'\t'

setup:  ## Make .venv from the committed lock
	@scripts/setup.sh

run: setup  ## X-rays to registered model; DATA=folder|zip|s3://bucket/prefix pins another cohort, PROFILE=comparison|fast|modern|paper|small other parameters
	@$(if $(PROFILE),python -m components.profile $(PROFILE))
	@$(if $(DATA),scripts/pin-data.sh "$(DATA)")
	@dvc repro
	@python -m components.report.show

data: setup  ## Pin another cohort without running: DATA=folder|zip|s3://bucket/prefix
	@scripts/pin-data.sh "$(DATA)"

profile: setup  ## Put a profile's choices into params.yaml: PROFILE=comparison|fast|modern|paper|small
	@$(if $(PROFILE),,echo "error: which profile? say PROFILE=comparison, fast, modern, paper or small" >&2; exit 1)
	@python -m components.profile $(PROFILE)

promote: setup  ## Make the challenger the champion: VERSION=N for another version
	@python -m components.promote $(if $(VERSION),--version $(VERSION))

pipeline: setup  ## Compile the Kubeflow pipeline to build/pipeline.yaml
	@python -m pipelines.compile --out build/pipeline.yaml

test: setup check  ## Lint, types, and all tests, the slow ones too
	@python -m pytest

check: setup  ## Lint, formatting, types and the import contracts alone
	@ruff check . && ruff format --check . && mypy && lint-imports

lock: setup  ## Resolve requirements.in into requirements.lock anew
	@uv pip compile requirements.in $(if $(PIP_FIND_LINKS),--find-links $(PIP_FIND_LINKS)) --generate-hashes --python-version 3.11 --no-emit-package torch --no-header -o requirements.lock

samples: setup  ## Draw the synthetic cohort in samples/ anew
	@python -m components.sample samples

clean:  ## Remove what runs made; data.dvc, the DVC cache and mlflow.db stay
	@rm -rf artifacts models evaluations reports checkpoints build
