# One image for everything of ours: the HTTP service by default, any other command by its name. Built with the
# library's exact versions; runs as a user of its own. Without FEATURESTORE_STORE__URL the store is a file in the
# project.
FROM python:3.11-slim

RUN useradd --create-home --uid 10001 featurestore \
    && install -d -o featurestore -g featurestore /project /var/cache/featurestore

WORKDIR /source
COPY requirements-serve.lock ./
RUN pip install --no-cache-dir --require-hashes -r requirements-serve.lock
COPY pyproject.toml README.md LICENSE ./
COPY featurestore featurestore
COPY api api
COPY streaming streaming
COPY migrations migrations
RUN pip install --no-cache-dir --no-deps .

USER featurestore
WORKDIR /project
ENV FEATURESTORE_KERNEL_CACHE_DIR=/var/cache/featurestore PYTHONUNBUFFERED=1
# A project to look at; mount your own over /project. Filling it also leaves the compiled loops in the cache.
RUN featurestore init . && featurestore apply && featurestore backfill

EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/ready', timeout=2)"]
# exec form: SIGTERM reaches the service, which drains
CMD ["featurestore", "serve", "--host", "0.0.0.0", "--port", "8000"]
