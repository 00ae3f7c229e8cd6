# The service in a container: as a user without rights, on a read-only file system (compose.yaml says how to run it).
#
#   docker build -t undertone .
#   docker run --rm --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges \
#       -p 127.0.0.1:8000:8000 -e UNDERTONE_TOKEN=change-me-please undertone

FROM python:3.12-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN python -m venv /opt/undertone \
    && /opt/undertone/bin/pip install --no-cache-dir --disable-pip-version-check ".[web,vad]" \
    && /opt/undertone/bin/python -m compileall -q /opt/undertone/lib

FROM python:3.12-slim
COPY --from=build /opt/undertone /opt/undertone
ENV PATH=/opt/undertone/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["undertone", "serve", "--host", "0.0.0.0"]
