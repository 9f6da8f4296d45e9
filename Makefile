# make demo   the main job for real: a main server, an SSH server and a relay on loopback
# make test   all tests, against real peers too
# make lint   ruff and mypy
# make bench  the benchmarks beside other relays and other SSH clients
# make docs   the site of the documents, in build/site
# make messages  collects the texts to translate, and compiles the catalogues
# make fuzz   one parser, as in: make fuzz TARGET=ssh-keys SECONDS=600; without TARGET, which there are
# make clean  all that these made, here

PYTHON ?= python3
TESTS ?= tests
TARGET ?=
SECONDS ?= 60
BIN := .venv/bin
INSTALLED := .venv/installed

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test lint bench fuzz docs messages clean

demo: $(INSTALLED)
	$(BIN)/python -m relayd.demo

test: $(INSTALLED)
	sh tests/bootstrap.sh peers
	$(BIN)/python -m twisted.trial --rterrors $(TESTS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict relayd twisted tests/support tests/fuzz benchmarks

bench: $(INSTALLED)
	sh tests/bootstrap.sh peers
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python benchmarks/run.py
	$(BIN)/python benchmarks/ssh.py

docs: $(INSTALLED)
	$(BIN)/python -m sphinx -q -E -W --keep-going -b html -d build/doctrees docs build/site
	@echo "build/site/index.html"

messages: $(INSTALLED)
	mkdir -p build
	PYTHONPATH=. $(BIN)/pybabel -q extract --mapping babel.cfg --no-location --sort-output -o build/relayd.pot relayd
	$(BIN)/pybabel -q update -D relayd -i build/relayd.pot -d relayd/locale --no-wrap --no-fuzzy-matching \
		--ignore-obsolete --ignore-pot-creation-date
	$(BIN)/pybabel -q compile -D relayd -d relayd/locale --statistics

fuzz: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --editable '.[fuzz]'
	nice -n 19 $(BIN)/python -m tests.fuzz $(TARGET) $(if $(TARGET),$(SECONDS))

clean:
	rm -rf .venv build dist *.egg-info _trial_temp* .hypothesis .mypy_cache .ruff_cache tests/node/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml setup.py tests/bootstrap.sh
	sh tests/bootstrap.sh python $(PYTHON)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[test,dev,docs]'
	touch $@
