FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml requirements.lock README.md LICENSE config.example.yaml ./
COPY policies ./policies
COPY gateway ./gateway
RUN python -m venv /opt/farebox && /opt/farebox/bin/pip install --no-cache-dir -c requirements.lock .

FROM python:3.12-slim
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/farebox farebox
# The shipped policies come with the installation (/opt/farebox/share/farebox/policies); `policies_dir` names others.
COPY --from=build /opt/farebox /opt/farebox
ENV PATH=/opt/farebox/bin:$PATH PYTHONUNBUFFERED=1
USER farebox
# ./farebox-data lies here: keep it on a volume.
WORKDIR /var/lib/farebox
VOLUME /var/lib/farebox
EXPOSE 8402
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8402/health/ready', timeout=2)"]
# Nothing is served on a configuration that is in doubt.
CMD ["sh", "-c", "farebox check --brief --config /etc/farebox/config.yaml && exec farebox serve --config /etc/farebox/config.yaml --host 0.0.0.0 --port 8402"]
