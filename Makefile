# make demo, make test: all that is needed is Python 3.10 or newer; everything is installed into .venv.
# PYTHON=/path/to/python chooses the interpreter that .venv is made with.

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
CANDIDATES := python3.12 python3.11 python3.13 python3.10 python3.14 python3 python
FITS := import sys, venv, ensurepip, ssl; sys.exit(sys.version_info < (3, 10))

.PHONY: demo test conformance test-real test-targets test-aarch64 test-cuda cuda-gates cuda-mutants cuda-ptx lint format bench kernels docs picture fuzz clean

demo: $(VENV)/.demo
	@$(BIN)/nbconv demo

# a file's tests share what they make, so a file stays whole
test: $(VENV)/.test build/real/silero_vad
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

conformance: $(VENV)/.test  ## onnx's backend suite, counted; ARGS="PATTERN" for a part, ARGS=--json for a program
	$(BIN)/python -m tests.conformance $(ARGS)

test-real: $(VENV)/.test build/real/silero_vad build/real/ddddocr  ## real networks against onnxruntime, at more shapes than make test has
	NBCONV_REAL=1 $(BIN)/python -m pytest tests/real $(ARGS)

test-targets: $(VENV)/.test  ## the tests on the kernels of lesser processors, too
	NBCONV_TARGET=x86-64 $(BIN)/python -m pytest $(ARGS)
	NBCONV_TARGET=x86-64-v3 $(BIN)/python -m pytest $(ARGS)

test-aarch64: $(VENV)/.test  ## ops, kernels and bundled models on aarch64, which qemu emulates; needs Debian's archive
	.ci/aarch64 $(VENV) $(ARGS)

cuda-gates: $(VENV)/.cuda-gates  ## what CUDA kernels must pass, without a GPU; a closing line says how many of five did
	$(BIN)/python -m tests.cuda.gates

cuda-mutants: $(VENV)/.cuda-gates  ## gate (e) with every fault, not one of a kind in each function; ten minutes
	NBCONV_MUTANTS=1000 $(BIN)/python -m pytest tests/cuda/test_mutants.py tests/cuda/test_mutants_shared.py $(ARGS)

cuda-ptx: $(VENV)/.cuda-gates  ## every kernel's PTX for sm_80 into DIR
	$(BIN)/python -m tests.cuda.kernels $(or $(DIR),build/ptx)

test-cuda: $(VENV)/.cuda-gates  ## ops, kernels, models and training on a GPU that is there
	NBCONV_TEST_DEVICE=cuda $(BIN)/python -m pytest tests/cuda $(ARGS)

fuzz: $(VENV)/.test  ## random graphs; ARGS="SEED COUNT"
	$(BIN)/python -m tests.fuzz $(or $(ARGS),0 1000)

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/pyright

format: $(VENV)/.lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.bench  ## beside onnxruntime and OpenVINO: ARGS are nbconv bench's; benchmarks/*.py --help says more
	$(BIN)/nbconv bench models/efficientnet_lite0.onnx --compare onnxruntime $(ARGS)
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/latency.py -t 1
	$(BIN)/python benchmarks/latency.py -t 2

kernels: $(VENV)/.nbconv  ## kernel libraries that a wheel built from this folder carries
	$(BIN)/nbconv kernels build --into kernels/prebuilt $(ARGS)

docs: $(VENV)/.test  ## what README.md and docs/ have from code, cases of tests and benchmarks/results
	$(BIN)/python -m docs.generate

RESULTS := benchmarks/results
picture: $(VENV)/.bench $(VENV)/.test  ## measures again what docs/latency.svg and README.md say of speed; some ten minutes
	$(BIN)/python benchmarks/latency.py -t 1 --engines nbconv,onnxruntime,openvino --json $(RESULTS)/latency-1.json $(ARGS)
	$(BIN)/python benchmarks/latency.py -t 2 --engines nbconv,onnxruntime,openvino --json $(RESULTS)/latency-2.json $(ARGS)
	$(BIN)/python benchmarks/picture.py $(RESULTS)/latency-1.json $(RESULTS)/latency-2.json -o docs/latency.svg
	$(BIN)/python -m docs.generate

# pretrained networks that tests/real tries, without what their packages want; what cannot be had is skipped there
build/real/silero_vad build/real/ddddocr: build/real/%: | $(BIN)/python
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target build/real '$(subst _,-,$*)==$(VERSION_$*)'

VERSION_silero_vad := 6.2.3
VERSION_ddddocr := 1.6.1

clean:
	rm -rf $(VENV) build dist *.egg-info nbconv-demo.onnx kernels/prebuilt .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# .venv itself: made once, and again when its interpreter is gone
$(BIN)/python:
	@if [ -n "$(PYTHON)" ]; then set -- "$(PYTHON)"; else set -- $(CANDIDATES); fi; \
	for python; do \
		if "$$python" -c "$(FITS)" >/dev/null 2>&1; then \
			echo "making $(VENV) with $$("$$python" -c 'import sys; print(sys.executable, sys.version.split()[0])')"; \
			rm -rf $(VENV); "$$python" -m venv $(VENV) && exit 0; \
		fi; \
	done; \
	echo "nbconv needs Python 3.10 or newer with its venv module: none of '$$*' is." >&2; \
	echo "Install one (Debian, Ubuntu: apt install python3 python3-venv), or say make PYTHON=/path/to/python." >&2; \
	exit 1

# one stamp a set of extras; pyproject.toml decides what is installed
$(VENV)/.nbconv: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.demo $(VENV)/.test $(VENV)/.lint $(VENV)/.bench $(VENV)/.cuda-gates: $(VENV)/.%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@ $(VENV)/.nbconv
