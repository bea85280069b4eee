# make demo and make test set up all they need: a virtual environment in .venv with rap and its
# development tools. They want Python 3.11 or newer, nothing else; PYTHON= chooses one by hand.

VENV ?= .venv
READY = $(VENV)/.ready
PY = $(VENV)/bin/python
# What rap is compared with is large, so the benchmarks have an environment of their own.
BENCH_VENV ?= .venv-bench
BENCH_READY = $(BENCH_VENV)/.ready
BENCH_PY = $(BENCH_VENV)/bin/python

# So have the tools that look at the Dockerfile and at k8s/.
CHECK_VENV ?= .venv-check
CHECK_READY = $(CHECK_VENV)/.ready

# Running a candidate is the test: a pyenv shim may exist and fail, a system Python lack ensurepip.
USABLE = import sys, venv, ensurepip; assert sys.version_info >= (3, 11)
CANDIDATES = python3 python3.13 python3.12 python3.11 python
PYTHON ?= $(shell for p in $(CANDIDATES); do \
	if $$p -c '$(USABLE)' >/dev/null 2>&1; then echo $$p; break; fi; done)

.PHONY: option-texts help demo test integration observe traces image image-check k8s-check lint format coverage fuzz faults bench bench-quick bench-guard test-all clean

help:
	@echo "make demo      a cluster in your terminal"
	@echo "make test      the test suite, in random order; LOOP=uvloop runs all of it on uvloop"
	@echo "make integration  whole systems: in containers where Docker answers, else as processes"
	@echo "make observe   the example under a real Prometheus, watched; KEEP=1 leaves it running"
	@echo "make traces    a trace through three services, by OTLP and by jaeger-client, as trees"
	@echo "make image     the image of the example, rap-example:integration"
	@echo "make image-check  hadolint and checkov on the Dockerfile"
	@echo "make k8s-check what can be checked of k8s/ without a cluster"
	@echo "make lint      ruff and mypy; make format rewrites"
	@echo "make option-texts  docstrings and tables of options, from their declarations"
	@echo "make coverage  the test suite with branch coverage"
	@echo "make fuzz      random bytes for a minute; SECONDS=600 for ten"
	@echo "make faults    what attackers and networks do, measured, in a few minutes"
	@echo "make bench     rap beside its peers, in five minutes"
	@echo "make bench-quick  rap, the limit and grpc.aio, in one minute"
	@echo "make bench-guard  instructions of a call; UPDATE=1 writes what to compare with"
	@echo "make test-all  the test suite on every Python 3.11, 3.12 and 3.13 found"
	@echo "make clean     remove environments, caches and build output"

demo: $(READY)
	$(VENV)/bin/rap demo

test: $(READY)
	$(PY) -m pytest $(if $(LOOP),--loop $(LOOP)) $(ARGS)

# Where Docker answers it runs in containers, of an image that is made first; RAP_STAGE= chooses.
integration: $(READY)
	@test "$(RAP_STAGE)" = machine || ! docker info >/dev/null 2>&1 || \
		$(MAKE) --no-print-directory image
	$(PY) -m pytest integration $(ARGS)

# KEEP=1 leaves all running until Ctrl-C, and prints the addresses.
observe: $(READY)
	$(PY) -m integration.observe $(if $(KEEP),--keep) $(ARGS)

traces: $(READY)
	$(PY) -m integration.traces $(ARGS)

# DOCKER_BUILD= passes options, such as --network=host where a bridge has no way out.
image:
	docker build $(DOCKER_BUILD) --tag rap-example:integration .

k8s-check: $(CHECK_READY)
	PATH="$(CURDIR)/$(CHECK_VENV)/bin:$$PATH" STRICT=1 k8s/check

image-check: $(CHECK_READY)
	$(CHECK_VENV)/bin/hadolint Dockerfile
	$(CHECK_VENV)/bin/checkov -f Dockerfile --framework dockerfile --skip-download --compact --quiet

lint: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(READY)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

option-texts: $(READY)
	$(PY) -m tests.option_texts

coverage: $(READY)
	$(PY) -m pytest --cov --cov-report=term $(ARGS)

# atheris, the fuzzer guided by coverage, is not to be had everywhere: without it, blind mutation.
fuzz: $(READY)
	@$(PY) -c 'import atheris' 2>/dev/null || \
		$(PY) -m pip install --quiet --disable-pip-version-check atheris || \
		echo "atheris cannot be installed here"
	$(PY) -m fuzz --seconds $(or $(SECONDS),60) $(ARGS)

faults: $(READY)
	$(PY) -m faults $(ARGS)

bench: $(BENCH_READY)
	$(BENCH_PY) -m bench $(ARGS)

bench-quick: $(BENCH_READY)
	$(BENCH_PY) -m bench --quick $(ARGS)

bench-guard: $(READY)
	$(PY) -m bench.guard $(if $(UPDATE),--update) $(ARGS)

test-all:
	@tried=; for version in 3.11 3.12 3.13; do \
		for python in python$$version "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$$version.*/bin/python; do \
			$$python -c '$(USABLE)' >/dev/null 2>&1 || continue; \
			echo "== Python $$version"; tried="$$tried $$version"; \
			$(MAKE) --no-print-directory test PYTHON="$$python" VENV=.venv-$$version || exit 1; \
			break; \
		done; \
	done; \
	test -n "$$tried" || { echo "found no Python 3.11, 3.12 or 3.13"; exit 1; }; \
	echo "passed on$$tried"

clean:
	rm -rf .venv .venv-* build dist htmlcov .coverage .coverage.*
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp makes a second run a matter of seconds; a change of the dependencies installs again.
$(READY): pyproject.toml
	@test -n "$(PYTHON)" || { \
		echo "rap needs Python 3.11 or newer with venv; say which: make PYTHON=/path/to/python"; exit 1; }
	@$(PY) -c '' 2>/dev/null || "$(PYTHON)" -m venv --clear $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(CHECK_READY): k8s/requirements.txt
	@test -n "$(PYTHON)" || { \
		echo "Python 3.11 or newer with venv is needed; say which: make PYTHON=/path/to/python"; exit 1; }
	@$(CHECK_VENV)/bin/python -c '' 2>/dev/null || "$(PYTHON)" -m venv --clear $(CHECK_VENV)
	$(CHECK_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r k8s/requirements.txt
	@touch $@

$(BENCH_READY): pyproject.toml bench/requirements.txt bench/peers.txt
	@test -n "$(PYTHON)" || { \
		echo "rap needs Python 3.11 or newer with venv; say which: make PYTHON=/path/to/python"; exit 1; }
	@$(BENCH_PY) -c '' 2>/dev/null || "$(PYTHON)" -m venv --clear $(BENCH_VENV)
	$(BENCH_PY) -m pip install --quiet --disable-pip-version-check \
		--editable '.[redis,crypto,metrics,otel,fast,cli]' -r bench/requirements.txt
	@grep -v '^#' bench/peers.txt | while read -r peer; do \
		echo "installing $$peer"; \
		$(BENCH_PY) -m pip install --quiet --disable-pip-version-check $$peer || \
			echo "not installed, and so not measured: $$peer"; \
	done
	@touch $@
