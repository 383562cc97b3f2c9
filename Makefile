# Every target sets up what it needs: a virtual environment in the checkout.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := $(VENV)/.demo
READY := $(VENV)/.ready
PIP := $(BIN)/pip install --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all stacks-test ray-test check lint types proto proto-check docs-check bench bench-rpc bench-loader bench-ray bench-overload bench-fleet soak gpu-check gpu-static gpu-host docker-test docker-locks inference-clients client-test dist sbom audit image-check image-push docs-pages docs site clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(READY) ## make the virtual environment

# What the demo needs, and on top of it what everything else does.
$(DEMO): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e '.[server,plot]'
	touch $@

# Kernels are compiled meanwhile, once: tests that start side by side would each compile them.
$(READY): $(DEMO)
	$(BIN)/python -c 'from cass_core.cpu.weighing import warm_up; warm_up()' & \
	    $(PIP) -e '.[dev]' && wait $$!
	touch $@

demo: $(DEMO) ## the main job, end to end; COCO=FILE.json IMAGES=DIR for your own data
	$(BIN)/python examples/demo.py $(if $(COCO),--coco $(COCO)) $(if $(IMAGES),--images $(IMAGES))

# Side by side, in more processes than there are cores; see tests/conftest.py.
PYTEST := $(BIN)/python -m pytest -n auto --durations 10 --ignore=tests/ray
test: $(READY) ## run the tests but the slow ones; ARGS for some of all
	$(if $(ARGS),$(BIN)/python -m pytest $(ARGS),$(PYTEST) -m "not slow")

test-all: $(READY) stacks-test ## run the slow ones too; ONLY=slow for them alone
	$(PYTEST) $(if $(ONLY),-m $(ONLY))

# What of the client needs no server of ours, as on macOS and Windows: the light client and numba.
CLIENT := .venv-client
CLIENT_BIN := $(CLIENT)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
CLIENT_TESTS := $(addprefix tests/client/,calls/test_errors.py calls/test_retry.py \
	calls/test_stream_answers.py transport/test_circuit_breaker.py transport/test_targets.py) \
	$(addprefix tests/wire/,codec test_answers.py test_contract.py test_specs.py) \
	tests/packaging/test_commands.py client/cass_client proto/cass
$(CLIENT)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(CLIENT)
	$(CLIENT_BIN)/python -m pip install --disable-pip-version-check -c constraints.txt \
	    -e '.[core]' cryptography hypothesis pytest pytest-timeout
	touch $@

client-test: $(CLIENT)/.ready ## what of the client needs no server, in an environment without one
	$(CLIENT_BIN)/python -m pytest -p no:cacheprovider --ignore=client/cass_client/torch \
	    --ignore=client/cass_client/ray $(CLIENT_TESTS)

# Training stacks as people have them, beside the versions that all else is tested with; one has a
# licence (AGPL) that nothing here is to depend on, and so an environment of its own.
STACKS := .venv-stacks
ULTRALYTICS := .venv-ultralytics
STACKS_ALL := torchvision pytest pytest-timeout
STACKS_PIP = $(@D)/bin/pip install --disable-pip-version-check -c constraints.txt \
    -c tests/stacks/constraints.txt
STACKS_FILES := pyproject.toml constraints.txt tests/stacks/constraints.txt
STACKS_PYTEST = -m pytest --confcutdir tests/stacks -W default --durations 5
$(STACKS)/.ready: $(STACKS_FILES)
	$(PYTHON) -m venv $(@D)
	$(STACKS_PIP) -e '.[server,torch,plot]' $(STACKS_ALL) accelerate albumentations ipykernel \
	    lightning mmengine nbclient pycocotools supervision torchdata transformers
	touch $@

$(ULTRALYTICS)/.ready: $(STACKS_FILES)
	$(PYTHON) -m venv $(@D)
	$(STACKS_PIP) -e '.[server,torch]' $(STACKS_ALL) ultralytics
	touch $@

stacks-test: $(STACKS)/.ready $(ULTRALYTICS)/.ready ## loaders of transformers, torchvision, Lightning, ultralytics, ...
	$(STACKS)/bin/python $(STACKS_PYTEST) tests/stacks
	$(ULTRALYTICS)/bin/python $(STACKS_PYTEST) tests/stacks/test_ultralytics.py tests/stacks/test_page.py

ray-test: $(READY) ## services on a real Ray cluster of three nodes, with nodes killed under load (ARGS)
	$(BIN)/python -m pytest -v --durations 5 tests/ray $(ARGS)

check: lint types proto-check docs-check ## everything CI checks beside the tests

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-cache --no-logo
	cd proto && ../$(BIN)/buf lint
	$(BIN)/actionlint .github/workflows/*.yml
	$(BIN)/zizmor --offline --quiet .github

docs-check: $(READY)
	$(BIN)/python docs/settings.py --check
	$(BIN)/python docs/performance.py --check
	$(BIN)/python docs/licences.py --check

types: $(READY)
	$(BIN)/mypy

# The oldest protoc that a wheel for Python 3.11 brings: what it generates is accepted by every
# protobuf runtime from its own (4.21.6, the floor in pyproject.toml) to today's. Those wheels end
# with Python 3.11, so this target wants that version (PYTHON=python3.11).
PROTOC := .venv-protoc
$(PROTOC)/.ready:
	$(PYTHON) -m venv $(PROTOC)
	$(PROTOC)/bin/pip install -q --disable-pip-version-check grpcio-tools==1.49.1 'setuptools<81'
	touch $@

# In pools of descriptors of their own: another package may bring files or messages of these names.
proto: $(PROTOC)/.ready ## generate the modules from the .proto
	$(PROTOC)/bin/python -W ignore -m grpc_tools.protoc -Iproto --python_out=proto \
	    --pyi_out=proto --grpc_python_out=proto proto/cass/v1/cass.proto
	cd proto/cass/inference && ../../../$(PROTOC)/bin/python -W ignore -m grpc_tools.protoc -I. \
	    --python_out=. --pyi_out=. grpc_predict_v2.proto
	sed -i 's/_descriptor_pool.Default()/_descriptor_pool.DescriptorPool()/' proto/cass/*/*_pb2.py

proto-check:
	@if $(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then \
	    $(MAKE) --no-print-directory proto && git diff --exit-code -- proto/cass; \
	else echo "proto-check skipped: the pinned protoc has wheels for Python 3.11 alone"; fi

ROUNDS ?= 31
bench: $(READY) ## masks and losses beside what they replace, and how they scale (OUT, PLOTS)
	$(BIN)/python -m benchmarks.core --rounds $(ROUNDS) $(if $(OUT),--out $(OUT)) $(if $(PLOTS),--plots $(PLOTS))

SECONDS ?= 0.5
bench-rpc: ROUNDS = 7
bench-rpc: SECONDS = 1.5
bench-rpc: $(READY) ## the server beside bare ones, Triton and local calls (ROUNDS, SECONDS a turn, TRITON: venv, OUT)
	$(BIN)/python -m benchmarks.rpc --rounds $(ROUNDS) --seconds $(SECONDS) \
	    $(if $(TRITON),--triton $(TRITON)) $(if $(OUT),--out $(OUT)) $(ARGS)

DATA ?= $(wildcard ../shared/data/carla)
EPOCH ?= 96
bench-loader: ROUNDS = 25
bench-loader: $(READY) ## masks in a DataLoader (ROUNDS, EPOCH: images, DATA: COCO folder, OUT)
	$(BIN)/python -m benchmarks.loader --rounds $(ROUNDS) --images $(EPOCH) \
	    $(if $(DATA),--data $(DATA)) $(if $(OUT),--out $(OUT))

bench-ray: ROUNDS = 7
bench-ray: $(READY) ## native replicas on Ray and Serve's ingress, beside a server without Ray (ROUNDS, SECONDS, OUT)
	$(BIN)/python -m benchmarks.ray --rounds $(ROUNDS) --seconds $(SECONDS) $(if $(OUT),--out $(OUT))

bench-overload: $(READY) ## floods, huge requests and idle connections at a server on one core (ARGS, OUT)
	$(BIN)/python -m benchmarks.load $(ARGS) $(if $(OUT),--out $(OUT))

LOADERS ?= 4096
bench-fleet: ROUNDS = 5
bench-fleet: $(READY) ## how many loaders a replica carries, simulated and checked against a server (ROUNDS, LOADERS, OUT)
	$(BIN)/python -m benchmarks.fleet measure --rounds $(ROUNDS) --loaders $(LOADERS) $(if $(OUT),--out $(OUT))

MINUTES ?= 20
soak: $(READY) ## all kinds of callers for MINUTES; fails if memory grows or an answer is wrong (OUT)
	$(BIN)/python -m benchmarks.load.soak --minutes $(MINUTES) $(if $(OUT),--out $(OUT))

# With the packages that are there: a plain installation of torch for CUDA is enough.
gpu-check: ## on a CUDA machine: kernels natively, sanitizer, GPU benchmarks, one JSON (OUT, ARGS)
	$(PYTHON) -m tests.gpu $(if $(OUT),--out $(OUT)) $(ARGS)

gpu-static: $(READY) ## the kernels' registers, spills, widths and instructions, without a GPU (OUT, BESIDE)
	$(BIN)/python -m benchmarks.core.gpu_static $(if $(OUT),--out $(OUT)) $(if $(BESIDE),--beside $(BESIDE))

gpu-host: $(READY) ## what a call on a GPU takes its host, without a GPU (OUT, ROUNDS)
	$(BIN)/python -m benchmarks.core.gpu_host $(if $(OUT),--out $(OUT)) $(if $(ROUNDS),--rounds $(ROUNDS))

# SERVER_IMAGE and CLIENT_IMAGE name images that are there already; else they are built.
docker-test: $(READY) ## the container images, built and run with docker or podman (ARGS)
	CONTAINERS=1 $(BIN)/python -m pytest -v --durations 5 tests/docker $(ARGS)

# Triton's and KServe's clients want another protobuf than ours.
INFERENCE := .venv-inference
$(INFERENCE)/.ready: tests/open_inference/requirements.txt pyproject.toml
	$(PYTHON) -m venv $(INFERENCE)
	$(INFERENCE)/bin/pip install -q --disable-pip-version-check -r tests/open_inference/requirements.txt -e '.[server]'
	touch $@

inference-clients: $(INFERENCE)/.ready ## the environment in which tests/open_inference runs them

DIST := .venv-dist
$(DIST)/.ready:
	$(PYTHON) -m venv $(DIST)
	$(DIST)/bin/pip install -q --disable-pip-version-check \
	    build==1.6.1 check-wheel-contents==0.6.3 cyclonedx-bom==7.5.0 pip-audit==2.10.1 \
	    twine==7.0.0 uv==0.13.9
	touch $@

dist: $(DIST)/.ready ## sdist and wheel in dist/, checked; nothing is published
	rm -rf dist
	$(DIST)/bin/python -m build --outdir dist
	$(DIST)/bin/twine check --strict dist/*
	$(DIST)/bin/check-wheel-contents dist/*.whl

# What each image installs, with the hashes of its files; the image for GPUs has Python 3.12.
LOCK := $(DIST)/bin/uv pip compile --quiet --no-config --no-header --no-annotate --generate-hashes \
	--python-platform x86_64-manylinux_2_28 -c constraints.txt -
docker-locks: $(READY) $(DIST)/.ready ## write docker/locked anew, after a change of requirements or constraints.txt
	$(BIN)/python docker/requirements.py --build-system \
		| $(LOCK) --python-version 3.11 -o docker/locked/build.txt
	$(BIN)/python docker/requirements.py | $(LOCK) --python-version 3.11 -o docker/locked/client.txt
	$(BIN)/python docker/requirements.py server http telemetry \
		| $(LOCK) --python-version 3.11 -o docker/locked/cpu.txt
	$(BIN)/python docker/requirements.py server http telemetry torch \
		| $(LOCK) --python-version 3.12 -o docker/locked/cuda.txt

sbom: $(DIST)/.ready ## CycloneDX lists of what each image installs, in out/sbom
	mkdir -p out/sbom
	for image in client cpu cuda; do \
	    $(DIST)/bin/cyclonedx-py requirements docker/locked/$$image.txt --pyproject pyproject.toml \
	        --output-reproducible --validate -o out/sbom/$$image.cdx.json || exit 1; \
	done

audit: $(DIST)/.ready ## known vulnerabilities of what is installed (REQUIRED=1: none unchecked)
	$(DIST)/bin/python docker/audit.py $(if $(REQUIRED),--required) constraints.txt docker/locked/*.txt

image-check: ## whether registries have the images that are built on and run, as pinned (REQUIRED=1)
	$(PYTHON) docker/images.py check $(if $(REQUIRED),--required)

# By digest: the Dockerfile's tags may move.
image-push: ## build an image with BuildKit and push it with SBOM and provenance (TARGET, TAG, ...)
	docker buildx build -f docker/Dockerfile --target $(TARGET) $$($(PYTHON) docker/images.py contexts) \
	    --build-arg REVISION=$(REVISION) --build-arg SOURCE=$(SOURCE) \
	    --sbom=true --provenance=mode=max $(if $(METADATA),--metadata-file $(METADATA)) \
	    --tag $(TAG) --push .

docs-pages: $(READY) ## write what pages take from settings, measurements and packages
	$(BIN)/python docs/settings.py
	$(BIN)/python docs/performance.py
	$(BIN)/python docs/licences.py

DOCS := .venv-docs
$(DOCS)/.ready: docs/site/requirements.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/pip install -q --disable-pip-version-check -r docs/site/requirements.txt
	touch $@

docs: docs-pages $(DOCS)/.ready ## the documentation site in out/site, and what its pages take from elsewhere
	$(DOCS)/bin/python docs/site/build.py

site: docs

clean: ## remove what the targets made
	rm -rf $(VENV) $(PROTOC) $(DIST) $(STACKS) $(ULTRALYTICS) $(INFERENCE) $(CLIENT) $(DOCS) dist out .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
