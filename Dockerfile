# One image for a study's driver, its workers, MLflow's server and the chart's tests. It takes the ordinary wheels, which
# carry CUDA's libraries and run on CPUs as well; what a GPU needs beside them is the node's driver.
#
#     docker build -t REGISTRY/hidfd:0.1.0 .
#     docker build --build-arg BASE=python:3.12-slim-bookworm ...
ARG BASE=python:3.11-slim-bookworm

# What the project needs, by the tested versions. Only a changed lock makes this again.
FROM ${BASE} AS dependencies
RUN pip install --no-cache-dir uv==0.13.9 && python -m venv --without-pip /opt/hidfd
WORKDIR /source
COPY pyproject.toml requirements.lock ./
RUN uv pip install --no-cache --compile-bytecode --python /opt/hidfd/bin/python \
      --constraint requirements.lock --extra image -r pyproject.toml

# The project itself: kilobytes beside gigabytes, so that a new version is a small layer.
FROM dependencies AS project
COPY README.md LICENSE ./
COPY hidfd hidfd
COPY tune tune
COPY k8s k8s
RUN uv pip install --no-cache --no-deps --target /opt/project . && python -m compileall -q /opt/project

FROM ${BASE}
LABEL org.opencontainers.image.title="hidfd" org.opencontainers.image.licenses="Apache-2.0"
# KubeRay's probes ask by wget.
RUN apt-get update && apt-get install --no-install-recommends -y wget && rm -rf /var/lib/apt/lists/*
COPY --from=dependencies /opt/hidfd /opt/hidfd
COPY --from=project /opt/project /opt/project
# Nothing is written but below /tmp and /work, which pods mount: the root file system may be read-only.
ENV PATH=/opt/hidfd/bin:$PATH PYTHONPATH=/opt/project PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp \
    OMP_WAIT_POLICY=PASSIVE RAY_USAGE_STATS_ENABLED=0 MLFLOW_DISABLE_TELEMETRY=1
WORKDIR /work
USER 1000:1000
CMD ["python", "-m", "tune", "--help"]
