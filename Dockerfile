# One image for every step, as `cpu` and as `gpu` (the same lock; torch's CPU or CUDA build). `make image` builds it and
# docs/image.md says with what. Without BuildKit too: no mounts, no heredocs, and what an installation needs to reach
# its packages (build/image: a CA bundle, wheels) is copied into the build stages alone, which nobody keeps.
ARG BASE=python:3.11-slim-bookworm

# --- build: the environment and the code, compiled ------------------------------------------------------------------
FROM ${BASE} AS build
WORKDIR /src
COPY requirements.in requirements.lock requirements-uv.lock requirements-torch.lock requirements-cuda.lock ./
COPY tools/setup.sh tools/image-venv.sh tools/sbom.sh tools/
COPY core/__init__.py core/
# Two sources, of which the second may be missing.
COPY LICENSE build/imag[e] /inputs/
# Proxies need no line here: HTTP_PROXY, HTTPS_PROXY and NO_PROXY are arguments that every build knows.
ARG INDEX_URL=

FROM build AS build-cpu
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
RUN tools/image-venv.sh cpu

FROM build AS code
WORKDIR /app
COPY model model
COPY core core
COPY tracking tracking
COPY registry registry
COPY components components
COPY serving serving
COPY pipelines pipelines
COPY tools tools
COPY defunet defunet
COPY profiles profiles
COPY params.yaml LICENSE ./
# By hash: a copy's times say nothing, and nobody but root, its owner, writes here. The owner keeps that right, since
# MLflow's copy of the code with a model gets the same modes and must be removable.
RUN python3.11 -m compileall -q --invalidation-mode unchecked-hash . && chmod -R u=rwX,go=rX .
# After the compilation, which would add files to the code of the packages.
COPY pretrained pretrained
RUN chmod -R u=rwX,go=rX pretrained

# --- runtime: what both targets share -------------------------------------------------------------------------------
FROM ${BASE} AS runtime
# A number, so that Kubernetes' runAsNonRoot can tell; any other works as well, and so does a read-only root with a
# writable /tmp.
RUN useradd --no-log-init --no-create-home --home-dir /tmp --uid 10001 --user-group steps
# In USER: libraries ask for its name, which an id that the image does not know has not.
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    USER=steps \
    LANG=C.UTF-8 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    GIT_PYTHON_REFRESH=quiet \
    DVC_NO_ANALYTICS=1 \
    MLFLOW_DISABLE_TELEMETRY=true \
    GX_ANALYTICS_ENABLED=false
WORKDIR /app
# No ENTRYPOINT: Kubeflow gives whole commands, and its DockerRunner appends them to an entrypoint.
CMD ["python", "-c", "print('python -m components.STEP --help, where STEP is ingest, validate, preprocess, train, evaluate, report, register, or promote; defunet --help lists the rest')"]
LABEL org.opencontainers.image.title="defu-net-pipeline" \
      org.opencontainers.image.description="Chest X-ray lung segmentation: every step of the pipeline" \
      org.opencontainers.image.licenses="Apache-2.0"

# --- the two targets ------------------------------------------------------------------------------------------------
FROM runtime AS cpu
COPY --from=build-cpu /opt/venv /opt/venv
COPY --from=code /app /app
ARG VERSION=
ARG GIT_COMMIT=
ARG GIT_DIRTY=
# By these the steps record which code ran: the image holds no repository.
ENV GIT_COMMIT=${GIT_COMMIT} GIT_DIRTY=${GIT_DIRTY}
LABEL org.opencontainers.image.version="${VERSION}" org.opencontainers.image.revision="${GIT_COMMIT}"
USER 10001:10001

FROM build AS build-gpu
# PyPI's own build for Linux is the CUDA one.
ARG TORCH_INDEX_URL=
RUN tools/image-venv.sh gpu

FROM runtime AS gpu
COPY --from=build-gpu /opt/venv /opt/venv
COPY --from=code /app /app
ARG VERSION=
ARG GIT_COMMIT=
ARG GIT_DIRTY=
ENV GIT_COMMIT=${GIT_COMMIT} GIT_DIRTY=${GIT_DIRTY} NVIDIA_DRIVER_CAPABILITIES=compute,utility
LABEL org.opencontainers.image.version="${VERSION}" org.opencontainers.image.revision="${GIT_COMMIT}"
USER 10001:10001
