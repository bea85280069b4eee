# An image of rap and the example in integration/app. The final stage has Python, a virtual environment
# and the example. It has no compiler, no pip (unless a system package includes one), no source of rap,
# and no files that its user can write. Every package that is installed has the version and the hash that
# image/ lists; `make image-lock` updates the lists.
ARG PYTHON=3.11.14

FROM python:${PYTHON}-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/rap
WORKDIR /src
COPY image image
RUN python -m pip install --only-binary :all: --require-hashes -r image/build.txt \
 && /opt/rap/bin/pip install --only-binary :all: --require-hashes -r image/requirements.txt
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY rap rap
RUN python -m pip wheel --no-deps --no-build-isolation --wheel-dir wheels . \
 && /opt/rap/bin/pip install --no-deps --no-index wheels/*.whl \
 && /opt/rap/bin/pip check \
 && /opt/rap/bin/pip uninstall --yes pip setuptools

FROM python:${PYTHON}-slim-bookworm
RUN python -m pip uninstall --yes pip setuptools wheel
COPY --from=build /opt/rap /opt/rap
COPY integration/__init__.py /app/integration/
COPY integration/app /app/integration/app
WORKDIR /app
ENV PATH=/opt/rap/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
EXPOSE 9000 8000 9100
# Starts a drain, which takes at most 26 s: use `docker stop --time 30`.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "integration/app/probe.py"]
CMD ["rap", "serve", "integration.app.calc:make", \
     "--metrics-host", "0.0.0.0", "--metrics-port", "9100"]
