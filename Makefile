# `make demo` and `make test` create what they need: a virtual environment in .venv with rap and its
# development tools. They require only Python 3.11 or newer; PYTHON= selects an interpreter.

VENV ?= .venv
READY = $(VENV)/.ready
PY = $(VENV)/bin/python
# The libraries that rap is compared with are large, so the benchmarks use a separate environment.
BENCH_VENV ?= .venv-bench
BENCH_READY = $(BENCH_VENV)/.ready
BENCH_PY = $(BENCH_VENV)/bin/python

# The tools that check the Dockerfile and k8s/ use a separate environment too.
CHECK_VENV ?= .venv-check
CHECK_READY = $(CHECK_VENV)/.ready
LOCK_VENV ?= .venv-lock

# The site is built with tools of an environment of its own too.
DOCS_VENV ?= .venv-docs
DOCS_READY = $(DOCS_VENV)/.ready

# So is what is released, and the workflows are checked with the same tools.
DIST_VENV ?= .venv-dist
DIST_READY = $(DIST_VENV)/.ready
DIST_PY = $(DIST_VENV)/bin/python

# Each candidate is tested by running it: a pyenv shim may exist but fail, and a system Python may lack
# ensurepip.
USABLE = import sys, venv, ensurepip; assert sys.version_info >= (3, 11)
VERSIONS = 3.15 3.14 3.13 3.12 3.11
CANDIDATES = python3 $(VERSIONS:%=python%) python
PYTHON ?= $(shell for p in $(CANDIDATES); do \
	if $$p -c '$(USABLE)' >/dev/null 2>&1; then echo $$p; break; fi; done)

.PHONY: dist dist-check workflows-check option-texts docs recording help demo test integration observe traces image image-lock image-check k8s-check lint format coverage fuzz faults chaos bench bench-quick bench-overload bench-guard test-all clean

help:
	@echo "make demo          run a cluster demo in the terminal"
	@echo "make test          run the tests in random order, in several processes; JOBS=0 runs them in"
	@echo "                   this one, LOOP=uvloop uses uvloop for all of them, EAGER=1 starts every task"
	@echo "                   at once (Python 3.12 or newer), and DEV=1 turns on the development mode of"
	@echo "                   Python and makes every warning an error"
	@echo "make integration   run system tests: in containers if Docker is available, else as processes"
	@echo "make observe       run the example with a real Prometheus and check it; KEEP=1 keeps it running"
	@echo "make traces        print a trace through three services, by OTLP and by jaeger-client"
	@echo "make image         build the image of the example, rap-example:integration"
	@echo "make image-lock    write the versions and hashes of the packages in the image; needs Python 3.11"
	@echo "make image-check   run hadolint and checkov on the Dockerfile"
	@echo "make k8s-check     check the manifests in k8s/ without a cluster"
	@echo "make lint          run ruff, mypy and pyright"
	@echo "make format        format the code with ruff"
	@echo "make docs          build the site of the documentation into build/site"
	@echo "make recording     record rap demo for the README"
	@echo "make dist          build wheel and sdist into dist/ and check them; RAP_PROJECT_URL= is the address"
	@echo "                   of the repository, for links in the metadata"
	@echo "make dist-check    install them with each extra alone on every Python that is found"
	@echo "make workflows-check  check .github/workflows"
	@echo "make option-texts  regenerate the option docstrings and tables from their declarations"
	@echo "make coverage      run the tests with branch coverage"
	@echo "make fuzz          run the fuzzers for a minute; SECONDS=600 for ten"
	@echo "make faults        measure the effect of attacks and network faults, a few minutes"
	@echo "make chaos         provoke 19 faults under a million calls, and judge; 12 minutes"
	@echo "make bench         benchmark rap and its peers, about five minutes"
	@echo "make bench-quick   benchmark rap, the limit and grpc.aio, about one minute"
	@echo "make bench-overload  ask rap and grpc.aio for more than they can do, 15 minutes"
	@echo "make bench-guard   compare instructions per call with the baseline; UPDATE=1 writes a new one"
	@echo "make test-all      run the tests on every Python from 3.11 to 3.15 that is found; the options"
	@echo "                   of make test work here too"
	@echo "make clean         remove environments, caches and build output"

demo: $(READY)
	$(VENV)/bin/rap demo

# The tests wait more than they compute, so that there are more processes than cores.
JOBS ?= auto
PARALLEL = --numprocesses $(JOBS) --dist worksteal

test: $(READY)
	$(PY) $(if $(DEV),-X dev -W error) -m pytest $(PARALLEL) $(if $(LOOP),--loop $(LOOP)) $(if $(EAGER),--eager) $(ARGS)

# If Docker is available, the tests run in containers of an image that is built first. RAP_STAGE=
# overrides the choice.
integration: $(READY)
	@test "$(RAP_STAGE)" = machine || ! docker info >/dev/null 2>&1 || \
		$(MAKE) --no-print-directory image
	$(PY) -m pytest integration $(ARGS)

# KEEP=1 keeps everything running until Ctrl-C and prints the addresses.
observe: $(READY)
	$(PY) -m integration.observe $(if $(KEEP),--keep) $(ARGS)

traces: $(READY)
	$(PY) -m integration.traces $(ARGS)

# DOCKER_BUILD= passes options, such as --network=host if the bridge has no network access.
image:
	docker build $(DOCKER_BUILD) --tag rap-example:integration .

# The versions are those for the Python of the image. pip-compile keeps what is listed and still fits;
# ARGS=--upgrade takes the newest of all.
COMPILE = $(LOCK_VENV)/bin/pip-compile --quiet --generate-hashes --strip-extras --allow-unsafe --no-annotate \
	--no-header --no-emit-options --no-emit-index-url --no-emit-trusted-host --no-emit-find-links $(ARGS)
EXTRAS = redis crypto fast cli gateway metrics otel
image-lock:
	$(PYTHON) -c 'import sys; assert sys.version_info[:2] == (3, 11), "make image-lock PYTHON=python3.11"'
	@$(LOCK_VENV)/bin/pip-compile --version >/dev/null 2>&1 || { $(PYTHON) -m venv --clear $(LOCK_VENV) && \
		$(LOCK_VENV)/bin/python -m pip install --quiet --disable-pip-version-check pip-tools; }
	$(COMPILE) $(EXTRAS:%=--extra %) --output-file image/requirements.txt pyproject.toml
	$(COMPILE) --output-file image/build.txt image/build.in
	sed -i '1i # Written by `make image-lock`: exact versions and hashes of what the image has.' image/requirements.txt
	sed -i '1i # Written by `make image-lock`: exact versions and hashes of what the image is built with.' image/build.txt

k8s-check: $(CHECK_READY)
	PATH="$(CURDIR)/$(CHECK_VENV)/bin:$$PATH" STRICT=1 k8s/check

image-check: $(CHECK_READY)
	$(CHECK_VENV)/bin/hadolint Dockerfile examples/shop/Dockerfile
	$(CHECK_VENV)/bin/checkov -f Dockerfile examples/shop/Dockerfile --framework dockerfile --skip-download --compact --quiet

lint: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m pyright --pythonpath $(PY)

format: $(READY)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

# The switch keeps a notice of the theme about the next version of mkdocs out of the build.
docs: $(DOCS_READY)
	@NO_MKDOCS_2_WARNING=true PYTHONPATH=. $(DOCS_VENV)/bin/python -m mkdocs build --strict
	@echo "open build/site/index.html"

# The recording in the README shows what `rap demo` prints.
recording: $(READY) $(DOCS_READY)
	PATH="$(abspath $(VENV))/bin:$$PATH" $(DOCS_VENV)/bin/python -m website.record docs/assets/demo.svg rap demo

dist: $(DIST_READY)
	rm -rf dist
	$(DIST_PY) -m build --outdir dist .
	$(DIST_PY) -m twine check --strict dist/*

dist-check: $(READY)
	$(PY) -m pytest integration/test_extras.py -o faulthandler_timeout=600 $(ARGS)

workflows-check: $(DIST_READY)
	$(DIST_VENV)/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(DIST_VENV)/bin/zizmor --offline --quiet .github/workflows

option-texts: $(READY)
	$(PY) -m tests.option_texts

coverage: $(READY)
	$(PY) -m pytest $(PARALLEL) --cov --cov-report=term $(ARGS)

# atheris, the coverage-guided fuzzer, is not available everywhere. Without it, mutation is random.
fuzz: $(READY)
	@$(PY) -c 'import atheris' 2>/dev/null || \
		$(PY) -m pip install --quiet --disable-pip-version-check atheris || \
		echo "atheris cannot be installed; fuzzing without coverage guidance"
	$(PY) -m fuzz --seconds $(or $(SECONDS),60) $(ARGS)

faults: $(READY)
	$(PY) -m faults $(ARGS)

chaos: $(READY)
	$(PY) -m chaos $(ARGS)

bench: $(BENCH_READY)
	$(BENCH_PY) -m bench $(ARGS)

bench-quick: $(BENCH_READY)
	$(BENCH_PY) -m bench --quick $(ARGS)

bench-overload: $(BENCH_READY)
	$(BENCH_PY) -m bench.overload $(ARGS)

bench-guard: $(READY)
	$(PY) -m bench.guard $(if $(UPDATE),--update) $(ARGS)

# Each Python has its own virtual environment. A failure does not stop the others.
test-all:
	@log=$$(mktemp); table=; status=0; \
	for version in $(VERSIONS); do \
		result="not found"; \
		for python in python$$version "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$$version[.-]*/bin/python; do \
			"$$python" -c '$(USABLE)' >/dev/null 2>&1 || continue; \
			echo "== Python $$version"; \
			$(MAKE) --no-print-directory test PYTHON="$$python" VENV=.venv-$$version 2>&1 | tee $$log; \
			result=$$(grep -E '^=* ?[0-9]+ (passed|failed|skipped|errors?|deselected).* in [0-9.]+s' $$log | tail -1); \
			case "$$result" in *failed*|*error*) status=1 ;; *passed*) ;; *) status=1; result="did not run" ;; esac; \
			break; \
		done; \
		table="$$table$$version|$$result\n"; \
	done; \
	rm -f $$log; \
	printf '%b' "\nPython  result\n$$table" | sed 's/|/    /; s/=//g'; \
	case "$$table" in *passed*) ;; *) echo "no Python from 3.11 to 3.15 was found, or none ran a test"; status=1 ;; esac; \
	exit $$status

clean:
	rm -rf .venv .venv-* build dist htmlcov .coverage .coverage.*
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp file makes a second run fast. A change of the dependencies installs them again.
$(READY): pyproject.toml
	@test -n "$(PYTHON)" || { \
		echo "rap needs Python 3.11 or newer with venv; select one with: make PYTHON=/path/to/python"; exit 1; }
	@$(PY) -c '' 2>/dev/null || "$(PYTHON)" -m venv --clear $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(CHECK_READY): k8s/requirements.txt
	@test -n "$(PYTHON)" || { \
		echo "Python 3.11 or newer with venv is needed; select one with: make PYTHON=/path/to/python"; exit 1; }
	@$(CHECK_VENV)/bin/python -c '' 2>/dev/null || "$(PYTHON)" -m venv --clear $(CHECK_VENV)
	$(CHECK_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r k8s/requirements.txt
	@touch $@

# The reference is made from rap itself.
$(DOCS_READY): pyproject.toml website/requirements.txt website/assets.txt
	@test -n "$(PYTHON)" || { \
		echo "Python 3.11 or newer with venv is needed; select one with: make PYTHON=/path/to/python"; exit 1; }
	@$(DOCS_VENV)/bin/python -c '' 2>/dev/null || "$(PYTHON)" -m venv --clear $(DOCS_VENV)
	$(DOCS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r website/requirements.txt \
		--editable '.[cli,gateway,metrics,redis,testing]'
	$(DOCS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r website/assets.txt
	@touch $@

$(DIST_READY): release/requirements.txt
	@test -n "$(PYTHON)" || { \
		echo "Python 3.11 or newer with venv is needed; select one with: make PYTHON=/path/to/python"; exit 1; }
	@$(DIST_PY) -c '' 2>/dev/null || "$(PYTHON)" -m venv --clear $(DIST_VENV)
	$(DIST_PY) -m pip install --quiet --disable-pip-version-check -r release/requirements.txt
	@touch $@

$(BENCH_READY): pyproject.toml bench/requirements.txt bench/peers.txt
	@test -n "$(PYTHON)" || { \
		echo "rap needs Python 3.11 or newer with venv; select one with: make PYTHON=/path/to/python"; exit 1; }
	@$(BENCH_PY) -c '' 2>/dev/null || "$(PYTHON)" -m venv --clear $(BENCH_VENV)
	$(BENCH_PY) -m pip install --quiet --disable-pip-version-check \
		--editable '.[redis,crypto,metrics,otel,fast,cli]' -r bench/requirements.txt
	@grep -v '^#' bench/peers.txt | while read -r peer; do \
		echo "installing $$peer"; \
		$(BENCH_PY) -m pip install --quiet --disable-pip-version-check $$peer || \
			echo "not installed, not measured: $$peer"; \
	done
	@touch $@
