# psp-ray with CUDA: docker build -f docker/gpu.Dockerfile -t psp-ray:0.1.0-gpu .
# torch's wheels bring the CUDA libraries; the host needs NVIDIA's driver and container toolkit only.
# Named once, for `make pin-images` to put the digest behind.
ARG BASE=python:3.11.14-slim-bookworm

FROM ${BASE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/psp-ray
WORKDIR /src
# Dependencies first: they change less often than the code. Every file is compared with its hash.
COPY docker/requirements.txt ./
RUN /opt/psp-ray/bin/pip install --no-deps --only-binary=:all: --require-hashes -r requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY psp_ray psp_ray
RUN /opt/psp-ray/bin/pip install --no-deps --no-build-isolation . && /opt/psp-ray/bin/pip check

FROM ${BASE}
LABEL org.opencontainers.image.title="psp-ray" org.opencontainers.image.licenses="Apache-2.0"
# KubeRay's health probes call wget.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends wget && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin psp \
    && install -d -o psp -g psp /var/cache/psp-ray /work /runs
COPY --from=build /opt/psp-ray /opt/psp-ray
COPY --chown=psp:psp tuning /work/tuning
COPY --chown=psp:psp cluster /work/cluster
ENV PATH=/opt/psp-ray/bin:$PATH PSP_RAY_CACHE=/var/cache/psp-ray RAY_USAGE_STATS_ENABLED=0 PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001
WORKDIR /work
HEALTHCHECK --interval=30s --timeout=20s --start-period=60s --retries=3 \
    CMD ["python", "-m", "cluster.health"]
ENTRYPOINT ["python", "-m", "cluster.start"]
CMD ["psp-ray", "--help"]
