# syntax=docker/dockerfile:1
FROM python:3.13-slim-trixie AS build
# the compiler that makes C extensions of the way of a request; it stays behind in this stage
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
ENV HATCH_BUILD_HOOK_ENABLE_MYPYC=1
WORKDIR /src
RUN python -m venv /opt/venv
COPY pyproject.toml README.md LICENSE ./
COPY edgeproxy ./edgeproxy
COPY config ./config
RUN /opt/venv/bin/pip install --no-cache-dir .

FROM python:3.13-slim-trixie
LABEL org.opencontainers.image.title="edgeproxy" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin edge
COPY --from=build /opt/venv /opt/venv
COPY config/compose.yaml /etc/edgeproxy/edge.yaml
COPY config/demo-geo.mmdb /etc/edgeproxy/demo-geo.mmdb
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001
EXPOSE 8080 9900
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:9900/readyz', timeout=2)"]
ENTRYPOINT ["edgeproxy"]
CMD ["run", "--config", "/etc/edgeproxy/edge.yaml"]
