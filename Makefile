# Two commands do everything on a fresh machine with Python >= 3.11: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A CPU build of PyTorch, where one is at hand; without it the PyTorch tests are skipped.
TORCH_CPU ?= torch==2.13.0+cpu
DEMO := zoos/digits_mlp.zarr

.PHONY: demo test fast lint clean

demo: $(VENV)/.demo
	$(BIN)/zoogen generate configs/digits_mlp.toml --out $(DEMO)
	$(BIN)/zoogen info $(DEMO)
	$(BIN)/zoogen report $(DEMO) --out zoos/digits_mlp_report
	@echo
	@echo "Open the zoo in Python ($(BIN)/python):"
	@echo "  import zoogen"
	@echo "  zoo = zoogen.open_zoo('$(DEMO)')"
	@echo "  print(zoo.members[['network.width', 'train.learning_rate', 'test_accuracy', 'phase']])"

test: $(VENV)/.test lint
	$(BIN)/python -m pytest -n 2

fast: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 -m "not slow"

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/.uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "zoogen needs Python >= 3.11; found $$($(PYTHON) --version). Try: make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@touch $@

$(VENV)/.demo: $(VENV)/.uv pyproject.toml constraints.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e ".[plot]"
	@touch $@

$(VENV)/.test: $(VENV)/.uv pyproject.toml constraints.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e ".[dev]"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH_CPU)" 2>/dev/null || \
	  echo "No CPU build of PyTorch at hand ($(TORCH_CPU)): its tests will be skipped."
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
