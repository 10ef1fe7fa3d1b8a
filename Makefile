# The two commands of a new machine: `make run` and `make test`. Everything else is one line of help away: `make help`.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export GX_ANALYTICS_ENABLED := false
unexport PYTHONDONTWRITEBYTECODE  # every process would compile the project's code anew

.DEFAULT_GOAL := help
.PHONY: help repository setup run data profile promote serve services results pipeline image test test-all check lock sbom audit fuzz samples clean

help:  ## Show this
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -t -s $$'\t'

setup:  ## Make .venv from the committed lock
	@tools/setup.sh

repository:
	@git rev-parse --git-dir >/dev/null 2>&1 || { echo "error: $(CURDIR) is no git repository: clone the project instead of copying its files, or run git init here and commit" >&2; exit 1; }

run: repository setup  ## X-rays to registered model; DATA= and PROFILE= as below
	@$(if $(PROFILE),python -m tools.profile $(PROFILE))
	@$(if $(DATA),tools/pin-data.sh "$(DATA)")
	@python -m core.params
	@! grep -q '^frozen: true' data.dvc || dvc status --quiet data.dvc || { echo "error: data is not what data.dvc pins: dvc pull data.dvc brings it, make data DATA=... pins another cohort; dvc repro would pin what is in data now" >&2; exit 1; }
	@mkdir -p build && rm -f build/metrics-before.json && if [ -f reports/metrics.json ]; then cp reports/metrics.json build/metrics-before.json; fi
	@dvc repro
	@python -m tools.show --before build/metrics-before.json

data: repository setup  ## Pin another cohort: DATA=folder|zip|s3://bucket/prefix
	@tools/pin-data.sh "$(DATA)"

profile: setup  ## Put a file of profiles/ into params.yaml: PROFILE=paper|staged|...
	@$(if $(PROFILE),,echo "error: which profile? pass PROFILE=comparison, fast, folds, long, medium, modern, paper, small or staged" >&2; exit 1)
	@python -m tools.profile $(PROFILE)

promote: setup  ## Challenger to champion, if it passes the gate: VERSION=N, DRY_RUN=1
	@python -m components.promote $(if $(VERSION),--version $(VERSION)) $(if $(DRY_RUN),--dry-run)

serve: setup  ## The model and its page at http://127.0.0.1:8080
	@python -m serving.http

services: setup  ## S3 and MLflow on this machine until Ctrl+C: S3_PORT=, MLFLOW_PORT=
	@exec python -m tools.services $(if $(S3_PORT),--s3-port $(S3_PORT)) $(if $(MLFLOW_PORT),--mlflow-port $(MLFLOW_PORT))

results: setup  ## Write docs/results.md and the studies' pages anew from results/
	@python -m tools.publish

pipeline: setup  ## Compile the Kubeflow pipeline to build/pipeline.yaml
	@python -m pipelines.compile --out build/pipeline.yaml

# docs/image.md says what each of these is for. Inputs of the installation lie in build/image while it runs, and no longer.
TARGET ?= cpu
IMAGE ?= $(shell sed -n 's/^IMAGE = "\(.*\)"/\1/p' pipelines/components.py)$(if $(filter gpu,$(TARGET)),-gpu)
image:  ## Build the image of every step: TARGET=cpu|gpu; docs/image.md
	@rm -rf build/image && mkdir -p build/image
	@$(if $(CA_BUNDLE),cp "$(CA_BUNDLE)" build/image/ca.pem)
	@$(if $(WHEELS),cp "$(WHEELS)"/*.whl build/image/)
	@trap 'rm -rf build/image' EXIT; docker build --target $(TARGET) --tag $(IMAGE) \
	  --build-arg VERSION="$$(sed -n 's/^__version__ = "\(.*\)".*/\1/p' core/__init__.py)" \
	  --build-arg GIT_COMMIT="$$(git rev-parse HEAD)" \
	  --build-arg GIT_DIRTY="$$(git diff --quiet HEAD -- . ':!dvc.lock' ':!models' ':!evaluations' ':!reports' && echo false || echo true)" \
	  --build-arg HTTP_PROXY --build-arg HTTPS_PROXY --build-arg NO_PROXY \
	  $(foreach name,BASE INDEX_URL TORCH_INDEX_URL,$(if $($(name)),--build-arg $(name)="$($(name))")) $(DOCKER_FLAGS) .

# Tests that share what is costly to start go to one worker: tests/workers.py. MORE=... is for pytest. The daily tests take
# three workers on two cores, since many wait for servers; test-all takes two, since some of its tests measure times.
test: WORKERS ?= 3
test-all: WORKERS ?= 2
test: setup check  ## Lint, types, and the tests of daily work; WORKERS=3
	@python -m pytest -n $(WORKERS) --dist loadgroup -m "not full" $(MORE)

test-all: setup check  ## Lint, types, and every test, in 45 minutes; WORKERS=2
	@python -m pytest -n $(WORKERS) --dist loadgroup $(MORE)

check: setup  ## Lint, formatting, spelling, types and the import contracts alone
	@ruff check . && ruff format --check . && git ls-files -z ':!*.onnx' | xargs -0 codespell && mypy && lint-imports

lock: setup  ## Resolve requirements.in into requirements.lock anew
	@uv pip compile requirements.in $(if $(PIP_FIND_LINKS),--find-links $(PIP_FIND_LINKS)) --generate-hashes --python-version 3.11 --no-emit-package torch --no-header -o requirements.lock

sbom: setup  ## Write build/sbom.json (CycloneDX) from the lock; TARGET=cpu|gpu
	@tools/sbom.sh build/sbom.json $(TARGET) && echo "build/sbom.json"

audit: setup  ## Look the lock up in the OSV database; TARGET=cpu|gpu
	@tools/sbom.sh audit $(TARGET)

fuzz: setup  ## Attack what reads files: COUNT=20000 SEED=0 PACKAGE= PROJECT= DICOMS=
	@python -m benchmarks.attack --count $(or $(COUNT),20000) --seed $(or $(SEED),0) $(if $(PACKAGE),--package "$(PACKAGE)") $(if $(PROJECT),--project "$(PROJECT)") $(if $(DICOMS),--dicoms "$(DICOMS)")

samples: setup  ## Draw the synthetic cohort in samples/ anew
	@python -m tools.sample samples

clean: repository  ## Remove what runs made; DVC's cache, mlflow.db and Git's files stay
	@git clean -ffdxq -- artifacts models evaluations reports checkpoints build
