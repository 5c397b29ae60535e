# Three steps: the wheel, an environment with what running needs, and an image with nothing else.
FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml LICENSE README.md ./
COPY requirements requirements
RUN python -m venv /opt/build && /opt/build/bin/pip install --no-cache-dir --require-hashes -r requirements/run.lock
COPY server server
COPY adapters adapters
COPY tools tools
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels .

FROM python:3.12-slim AS environment
COPY requirements/run.lock /src/run.lock
# The lock also holds the demo's tracker and what builds the wheel; neither belongs in the image.
RUN awk '/^[a-z]/ { keep = !/^(roundup|hatchling|editables|trove-classifiers|pathspec|pluggy)==/ } keep' \
        /src/run.lock > /src/image.lock \
    && python -m venv /opt/toolgate \
    && /opt/toolgate/bin/pip install --no-cache-dir --require-hashes -r /src/image.lock
COPY --from=build /wheels /wheels
# The distribution of Casbin brings a node_modules folder that nothing uses.
RUN /opt/toolgate/bin/pip install --no-cache-dir --no-deps --no-index /wheels/toolgate-*.whl \
    && /opt/toolgate/bin/pip check \
    && rm -rf /opt/toolgate/lib/python3.12/site-packages/node_modules

FROM python:3.12-slim
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin toolgate \
    && install -d -o toolgate -g toolgate -m 0700 /gate
COPY --from=environment /opt/toolgate /opt/toolgate
ENV PATH=/opt/toolgate/bin:$PATH PYTHONUNBUFFERED=1 TOOLGATE_HOST=0.0.0.0
USER toolgate
WORKDIR /gate
VOLUME /gate
EXPOSE 8080
# The gate speaks HTTPS where it has a certificate, which need not stand for 127.0.0.1: only that it answers is looked at.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s CMD ["python", "-c", "\
import os, ssl, urllib.request\n\
at, trusting = f\"127.0.0.1:{os.environ.get('TOOLGATE_PORT', '8080')}/healthz\", ssl._create_unverified_context()\n\
try:\n\
    urllib.request.urlopen(f\"http://{at}\", timeout=2)\n\
except OSError:\n\
    urllib.request.urlopen(f\"https://{at}\", timeout=2, context=trusting)\n"]
ENTRYPOINT ["toolgate"]
CMD ["serve", "--root", "/gate"]
