# Two commands for a newcomer: `make run` sets everything up and does the main job, `make test` passes the tests.
# Tests that need more than the package (a browser, an optional library, Flower) say so and are skipped; `make extras` and
# `make flower` bring the libraries, `.ci/run` the browser too.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
EXTRAS := $(VENV)/.extras
FLOWER := .venv-flower
FLOWER_READY := $(FLOWER)/.ready
# FedAvg at three intervals, so that the table can say how many bytes FedLAMA needs at equal loss.
METHODS := fedavg fedavg,base_interval=12 fedavg,base_interval=24 fedlama fedlama,server_optimizer=nesterov \
	fedlama,codec=differences,bits=4
# Two files of tests at a time; fixtures of a file, such as a deployment, are set up once.
PARALLEL := --numprocesses 2 --dist loadfile --no-loadscope-reorder
# Deployments often wait, so twice as many processes; tests/flower/conftest.py marks these tests and gives their order.
FLOWER_PROCESSES := 4
DEPLOYMENTS = --numprocesses $(FLOWER_PROCESSES) --dist loadfile --no-loadscope-reorder
PIP := -m pip install --quiet --disable-pip-version-check
INSTALL := $(PIP) --constraint
# The pip that comes with Python 3.11 takes twice as long to install everything as the pinned one.
define ENVIRONMENT
test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
$(1)/bin/python $(PIP) --require-hashes --requirement requirements/pip.txt \
	|| echo "The environment keeps the pip that it has: the pinned one could not be installed."
endef

# A process that must not keep what it compiled of PyTorch and of ours compiles it again, for five seconds on a slow machine.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test quick thorough lint docs pictures flower install extras gpu hashed hashes audit fuzz clean

run: $(READY)
	$(BIN)/fedlama compare digits-resnet --methods '$(METHODS)'

test: $(READY)
	$(BIN)/python -m pytest $(PARALLEL) -m "not thorough"

quick: $(READY)
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow and not thorough"

# All combinations of parameters, of which `make test` runs a selection (tests/selection.py), and long runs.
thorough: $(EXTRAS) $(FLOWER_READY)
	$(BIN)/python -m pytest $(PARALLEL)
	$(FLOWER)/bin/python -m pytest $(DEPLOYMENTS) -m flower tests/flower

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(EXTRAS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# The pictures of the pages, by the commands on these pages: minutes.
pictures: $(READY)
	$(BIN)/python docs/pictures.py

flower: $(FLOWER_READY)
	$(FLOWER)/bin/python -m pytest $(DEPLOYMENTS) -m "flower and not thorough" tests/flower

fuzz: $(READY)
	$(BIN)/python -m tests.fuzz --inputs 100000

# Needs a GPU, and Python with PyTorch and pytest; nothing is installed.
gpu:
	PYTHON=$(PYTHON) benchmarks/gpu.sh

install: $(READY)

extras: $(EXTRAS)

# Every package by its hash, on the platform that requirements/ci.txt was made for.
hashed:
	$(call ENVIRONMENT,$(VENV))
	$(BIN)/python $(PIP) --require-hashes --only-binary :all: --requirement requirements/ci.txt

$(READY): pyproject.toml constraints.txt
	$(call ENVIRONMENT,$(VENV))
	$(BIN)/python $(INSTALL) constraints.txt torch
	$(BIN)/python $(INSTALL) constraints.txt --editable '.[dev]'
	touch $(READY)

$(EXTRAS): $(READY)
	$(BIN)/python $(INSTALL) constraints.txt --editable '.[docs,fast,mlflow,peft,privacy,tensorboard,wandb]'
	touch $(EXTRAS)

# Flower wants older versions of libraries that others want newer, so it lives in an environment of its own.
$(FLOWER_READY): pyproject.toml constraints-flower.txt
	$(call ENVIRONMENT,$(FLOWER))
	$(FLOWER)/bin/python $(INSTALL) constraints-flower.txt torch
	$(FLOWER)/bin/python $(INSTALL) constraints-flower.txt --editable '.[dev,flower]' 'flwr[simulation]'
	touch $(FLOWER_READY)

# For maintainers, after every change of the constraints; they need uv and pip-audit. The last command with
# `--upgrade` takes a newer pip.
HASH := --generate-hashes --no-emit-find-links --no-annotate --python-version 3.11.5 \
	--python-platform x86_64-manylinux_2_28 --custom-compile-command "make hashes"

hashes:
	uv pip compile constraints.txt --output-file requirements/ci.txt $(HASH)
	uv pip compile constraints-flower.txt --output-file requirements/flower.txt $(HASH)
	echo pip | uv pip compile - --output-file requirements/pip.txt $(HASH)

audit:
	pip-audit --strict --no-deps --disable-pip --requirement constraints.txt
	pip-audit --strict --no-deps --disable-pip --requirement constraints-flower.txt
	pip-audit --strict --no-deps --disable-pip --requirement requirements/pip.txt

clean:
	rm -rf $(VENV) $(FLOWER) runs build site *.egg-info src/*.egg-info
