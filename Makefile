# Two commands do everything: `make demo` and `make test`. `make help` lists the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Two BLAS threads that spin on busy cores are a hundred times slower than one.
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
export MKL_NUM_THREADS := 1

.PHONY: help env demo test slow gpu oracle peers ray lint format bench bench-peers smoke clean \
	trio trio-tiny reproduce reproduce-smollm2

help:            ## list the targets
	@grep -E '^[a-z0-9-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | expand -t 19

env: $(STAMP)    ## virtual environment with everything that tests and demo need

$(STAMP): pyproject.toml constraints.txt kernels/CMakeLists.txt $(wildcard kernels/*.cpp kernels/*.hpp kernels/*/*.cpp kernels/*/*.hpp kernels/*/*.inl)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[calibrate,dev,demo,plot]'
	touch $@

demo: $(STAMP)   ## the main job on a real model, under 10 minutes
	$(BIN)/python examples/demo/demo.py

test: $(STAMP)   ## all tests but the slow ones, under 10 minutes on two cores
	$(BIN)/python -m pytest -q -n 2 -m 'not slow and not gpu and not oracle and not peers and not ray'

slow: $(STAMP)   ## the slow tests
	$(BIN)/python -m pytest -q -m 'slow and not gpu and not oracle and not peers and not ray' || test $$? -eq 5

# bench installs mergekit into an environment of its own, and so does this.
peers: $(STAMP)  ## recipes against mergekit itself
	$(BIN)/python -c 'import sys; sys.path.insert(0, "tests/benchmarks"); import rivals; sys.exit(rivals.install("mergekit") is None)'
	$(BIN)/python -m pytest -q -s -m peers

gpu: $(STAMP)    ## tests and a benchmark that need a CUDA device
	$(BIN)/python -m pytest -q -m gpu || test $$? -eq 5
	$(BIN)/python tests/benchmarks/ternary_gpu.py

# Of what aihwkit depends on, its noise models need nothing that is not here.
oracle: $(STAMP) ## device models against IBM's aihwkit
	$(BIN)/python -m pip install --quiet --no-deps -c constraints.txt aihwkit==1.1.0
	$(BIN)/python -m pytest -q -m oracle

ray: $(STAMP)    ## two Ray nodes on this machine, one killed half-way; a minute
	$(BIN)/python -m pip install --quiet -c constraints.txt ray
	$(BIN)/python -m pytest -q -m ray

# mypy looks for weightsmith.kernels where the installed package has it, so it gets such a tree.
lint: $(STAMP)   ## formatting, linters, types, import layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	rm -rf build/typed && mkdir -p build/typed/weightsmith
	ln -s $(CURDIR)/weightsmith/* build/typed/weightsmith/
	ln -s $(CURDIR)/kernels build/typed/weightsmith/kernels
	cd build/typed && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml -p weightsmith
	$(BIN)/lint-imports

format: $(STAMP) ## format, and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)  ## speed and memory, with the peers in the same run
	$(BIN)/python tests/benchmarks/bench.py

bench-peers: $(STAMP) ## every method beside its peers, one table: under 20 minutes
	$(BIN)/python tests/benchmarks/peers.py

smoke: $(STAMP)  ## the built wheel without dev extras: help and one pipe
	$(BIN)/python tests/smoke.py

trio-tiny: $(STAMP) ## base, tuned, instruct and thinking from scratch, 1.3 M weights each
	$(BIN)/python examples/trio/tiny.py build/reproduce/trio --seed 0

trio: $(STAMP)   ## the same of SmolLM2-135M, resumable
	$(BIN)/python examples/trio/partners.py build/smollm2

reproduce: $(STAMP) ## what the papers claim, on tiny models: under 90 minutes on two cores
	$(BIN)/python examples/reproduce/run.py build/reproduce

reproduce-smollm2: $(STAMP) ## three of the experiments on SmolLM2-135M, resumable
	$(BIN)/python examples/reproduce/smollm2.py build/smollm2

clean:           ## remove what can be made again
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
