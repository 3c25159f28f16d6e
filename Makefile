# Two commands on a fresh machine: `make demo` and `make test`. Both set up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# The Python bindings of both major versions of TensorRT, without its libraries: the tests check every call against them.
BINDINGS := .cache/tensorrt-bindings

# ncnn's own converter, one static program, to compare with.
PNNX := .cache/pnnx

# What `python -m benchmarks` is asked for: BENCH=quick, BENCH="quick --only parnet_s"; nothing is everything, overnight.
BENCH ?=

.PHONY: help setup demo test test-oldest fuzz soak mutation docs check format clean trt-bindings pycuda bench pnnx

help:
	@echo "make setup    make $(VENV) and install everything, pinned by constraints.txt"
	@echo "make demo     train, fuse, export, build, run, verify and benchmark; ends with out/demo/report.html"
	@echo "make test     ruff, mypy, import-linter and all tests; fetches TensorRT's Python bindings and builds pycuda for them"
	@echo "make fuzz     well over 1,000 bad inputs, kills and full disks, each of which must end in a named error; prints the counts"
	@echo "make soak     50,000 inferences from 8 threads, plans opened and closed on the way; prints the memory's curve"
	@echo "make test-oldest the target side's tests without torch, on the oldest releases that are allowed"
	@echo "make mutation mutation testing of fusion and schedule; an hour or more, goes on where it stopped"
	@echo "make docs     write what the documentation takes from the code"
	@echo "make check    ruff, mypy and import-linter only"
	@echo "make bench    measure everything beside its peers, overnight; goes on where it stopped; BENCH=quick takes ten minutes"
	@echo "make format   format the code"
	@echo "make clean    remove what demo wrote and the caches"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not ((3, 11) <= sys.version_info[:2] <= (3, 12)))' \
		|| { echo "Python 3.11 or 3.12 is needed: make setup PYTHON=python3.12"; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { echo "python3-venv is needed: apt-get install python3-venv"; exit 2; }
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(STAMP)

demo: setup
	$(BIN)/python examples/demo.py --output out/demo

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# One thread a process: the tests run two at a time.
test: check trt-bindings pycuda
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --durations 10

# All cases; `make test` runs a sample. Options by ARGS: make fuzz ARGS='--kind killed --verbose'
fuzz: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz $(ARGS)

soak: setup
	$(BIN)/python -m tests.soak $(ARGS)

# Old releases warn under new ones of their own dependencies, so no warning is an error here. What needs torch is left out:
# most tests of tune, and those of whole quantised bundles, start from a network that is exported first. So is the check of
# a bfloat16 file, which is of opset 22: the oldest onnx knows 21 (and reads such files).
OLDEST := .cache/oldest
TORCHLESS_TESTS := $(addprefix tests/,artifacts bench datasets engines graphs planning quantize reporting runtime tuning weights)
LEFT_OUT := $(addprefix tests/,engines/test_every_topology.py planning/test_layers.py \
	quantize/test_digits_command.py quantize/test_quantize_bundle.py tuning/test_cuts.py tuning/test_tune.py)

test-oldest: $(OLDEST)/.installed
	OMP_NUM_THREADS=1 PYTHONPATH=. $(OLDEST)/bin/python -m pytest -W ignore $(TORCHLESS_TESTS) --ignore-glob '*torch*' \
		$(addprefix --ignore=,$(LEFT_OUT)) -k 'not test_every_backend_is_found_by_its_name and not timm and not test_the_file_itself_is_bfloat16'

$(OLDEST)/.installed: pyproject.toml constraints-oldest.txt
	@rm -rf $(OLDEST)
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --constraint constraints-oldest.txt \
		--editable '.[onnxruntime,ncnn,openvino,bench,tune,quantize,pull]' pytest hypothesis
	@touch $@

docs: setup
	$(BIN)/python -m tools.docs
	$(BIN)/python -m tools.fusion_pictures

# A copy of the package with one fault at a time, under mutants/; docs/mutation.md explains what survives.
mutation: setup
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[mutation]'
	OMP_NUM_THREADS=1 $(BIN)/mutmut run --max-children 2
	$(BIN)/python -m tools.mutation_score

trt-bindings: $(BINDINGS)/10 $(BINDINGS)/11

$(BINDINGS)/10 $(BINDINGS)/11: | $(STAMP)
	$(BIN)/python -m pip install --quiet --no-deps --target $@.partial \
		$(if $(filter %/10,$@),tensorrt-cu12-bindings==10.13.3.9,tensorrt-cu13-bindings==11.4.0.106)
	@mv $@.partial $@

# Once, into .cache/; the tests go without where it cannot be built, and say why.
pycuda: setup
	-@$(BIN)/python -m tests.cuda_sim.build_pycuda

bench: setup pnnx
	$(BIN)/python -m benchmarks $(BENCH)

pnnx: $(PNNX)

$(PNNX): | $(STAMP)
	$(BIN)/python -m pip install --quiet --no-deps --target $@.partial pnnx==20261020
	@mv $@.partial $@

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf out .cache mutants .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -exec rm -rf {} +
