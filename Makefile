# make demo   plays the rendered drive (or BAG=path) through the node; pictures and numbers land in out/demo
# make test   runs every test
# make lint   ruff and mypy

PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do \
	$$python -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null && echo $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin
NODE := ros2_ws/src/sem_depth_node
BAG ?=
DEMO_OUT ?= out/demo

.PHONY: demo test lint format check-paper clean

demo: $(VENV)/node.installed
	$(BIN)/sem-depth demo $(if $(BAG),--bag "$(BAG)") --out "$(DEMO_OUT)"

# Training's tests spend their time in Python on one core, so two processes share them; the node's tests time messages
# and take the machine for themselves. The second half runs, and is reported, even if the first fails.
test: $(VENV)/dev.installed
	@status=0; \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest training/test --numprocesses 2 --dist worksteal || status=1; \
	$(BIN)/python -m pytest $(NODE)/test tests || status=1; \
	exit $$status

lint: $(VENV)/dev.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(NODE)/sem_depth_node training/sem_depth_training

format: $(VENV)/dev.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check-paper: $(VENV)/dev.installed
	$(BIN)/sem-depth-train check-paper

clean:
	rm -rf $(VENV) out build install log $(addprefix ros2_ws/,build install log)

# Debian and Ubuntu keep the part of Python that makes virtual environments in a package of its own.
$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "sem_depth needs Python 3.10 to 3.14, and none is on PATH; on Debian and Ubuntu: apt-get install python3"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		package=$$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
		if [ "$$(id -u)" = 0 ]; then apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y $$package; \
		else sudo apt-get update && sudo apt-get install -y $$package; fi; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip setuptools wheel

# Editable, so that a change in the checkout is what runs.
$(VENV)/node.installed: $(VENV)/bin/python $(NODE)/setup.py
	PYTHONWARNINGS=ignore $(BIN)/pip install --quiet --editable "$(NODE)[cpu,bags,ros]"
	@touch $@

$(VENV)/dev.installed: $(VENV)/node.installed training/pyproject.toml requirements-dev.txt
	PYTHONWARNINGS=ignore $(BIN)/pip install --quiet --requirement requirements-dev.txt --editable "$(NODE)[cpu,bags,ros,tensorrt-rtx,waymo]" --editable training
	@touch $@
