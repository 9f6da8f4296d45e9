# make demo   the main job for real: a main server, an SSH server and a relay on loopback
# make test   all tests, against real peers too, JOBS=8 side by side
# make lint   ruff, mypy, hadolint, dclint, and the fragments in changes/
# make bench  the benchmarks beside other relays and other SSH clients
# make docs   the site of the documents, in build/site
# make messages  collects the texts to translate, and compiles the catalogues
# make fuzz   one parser, as in: make fuzz TARGET=ssh-keys SECONDS=600; without TARGET, which there are
# make clean  all that these made, here
#
# make coverage       all tests, and which lines and branches of relayd they leave out
# make test-pythons   tests with each Python that is to be found here
# make test-minimum   tests with the lowest version of each library that relayd allows
# make man completion options  manual pages, completion for shells, tables and example file, from the options as they are now
# make schemas        docs/schemas, from the types of messages as they are now
# make openapi        docs/openapi.json, from the routes of the hub as they are now
# make dist           wheel and source
# make deb            a Debian package with its own virtual environment
# make test-deb       it installed, run, upgraded and purged here, and under a systemd in namespaces; needs root
# make news           what the files in changes/ come to

PYTHON ?= python3
TESTS ?= tests
JOBS ?= 8
TARGET ?=
SECONDS ?= 60
BIN := .venv/bin
INSTALLED := .venv/installed
# What relayd itself needs, without what tests and linters need.
RUNS := .venv/runs

# Those that meet every library, and are quick.
QUICK := $(addprefix tests.,commands config journal policy process ssh.keys ssh.login ssh.transport uplink wire \
	peers.test_openssh peers.test_tls system.test_end_to_end system.test_process system.test_tap)

MODULES := $(subst /,.,$(basename $(sort $(shell find tests -name 'test_*.py' -not -path '*/node_modules/*' -not -path 'tests/installed/*'))))
# What measures the event loop, and whether answers are in time beside a flood, which takes all processors that there are.
LOOP := tests.faults.test_event_loop
ALONE := tests.system.test_timeouts_in_time
# Those that take longest begin. Then what waits for other processes goes beside what only computes: of the latter there
# are twice as many modules, so one of each half of them follows each that waits. So the processors always have something
# to do; and in the end there are only short ones.
FIRST := tests.faults.test_soak tests.faults.test_kill tests.docs.test_commands
WAITING := $(foreach wing,faults docs system peers ssh.ending ctl demo,$(filter tests.$(wing).%,$(MODULES)))
COMPUTING := $(filter-out $(WAITING),$(MODULES))
OTHERS := $(filter-out $(FIRST),$(WAITING))
HALF := $(wordlist 1,$(words $(OTHERS)),$(COMPUTING))
THREES := $(subst +, ,$(join $(addsuffix +,$(join $(addsuffix +,$(OTHERS)),$(HALF))),$(filter-out $(HALF),$(COMPUTING))))
ABREAST := $(FIRST) $(filter-out $(LOOP) $(ALONE),$(THREES))

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Hundreds of processes start in the tests; without it each would compile all of relayd anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint bench fuzz docs messages clean coverage test-pythons test-minimum news man completion options schemas openapi dist deb test-deb

demo: $(or $(wildcard $(INSTALLED)),$(RUNS))
	$(BIN)/python -m relayd.demo

test: $(INSTALLED)
	sh tests/bootstrap.sh peers
ifeq ($(TESTS),tests)
	@failed=0; \
	$(BIN)/python -m twisted.trial -j$(JOBS) $(ABREAST) || failed=1; \
	$(BIN)/python -m twisted.trial -j2 --temp-directory=_trial_temp-loop $(LOOP) || failed=1; \
	$(BIN)/python -m twisted.trial --rterrors --temp-directory=_trial_temp-alone $(ALONE) || failed=1; \
	exit $$failed
else
	$(BIN)/python -m twisted.trial -j$(JOBS) $(TESTS)
endif

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict relayd twisted tests/support tests/fuzz benchmarks
	$(BIN)/hadolint packaging/container/*Containerfile
	@sh tests/bootstrap.sh node
	tests/node/node_modules/.bin/dclint --max-warnings 0 packaging/container/compose.yaml
	@$(MAKE) --no-print-directory news >/dev/null

news: $(INSTALLED)
	@! ls changes | grep -vE '^(README|\+?[a-z0-9-]+\.(feature|change|fix))\.rst$$' || { echo "see changes/README.rst" >&2; exit 1; }
	@$(BIN)/towncrier build --draft --version next

man completion options schemas openapi: $(INSTALLED)
	$(BIN)/python packaging/generate.py $@

dist: $(INSTALLED)
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	$(BIN)/python -c 'from setuptools.build_meta import build_sdist; build_sdist("dist")'

deb: $(INSTALLED)
	@sh tests/bootstrap.sh deb
	@sh packaging/debian/build.sh $(BIN)/python dist

test-deb: $(INSTALLED)
	sh tests/bootstrap.sh deb
	sh tests/bootstrap.sh machine
	rm -f dist/relayd_*.deb
	sh packaging/debian/build.sh $(BIN)/python dist
	if command -v lintian >/dev/null; then lintian --allow-root --fail-on error dist/relayd_*.deb; fi
	sh tests/package.sh dist/relayd_*.deb $(BIN)/python
	PACKAGE_UNDER_TEST=$$(ls "$$PWD"/dist/relayd_*.deb) sh tests/installed/run.sh $(BIN)/python

coverage: $(INSTALLED)
	sh tests/bootstrap.sh peers
	rm -rf .coverage.d && mkdir .coverage.d
	$(BIN)/python -m coverage run -m twisted.trial -j$(JOBS) $(if $(filter-out tests,$(TESTS)),$(TESTS),$(ABREAST) $(ALONE))
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

test-pythons:
	sh tests/bootstrap.sh peers
	sh tests/pythons.sh $(if $(filter-out tests,$(TESTS)),$(TESTS),$(QUICK))

test-minimum: $(INSTALLED)
	sh tests/bootstrap.sh peers
	$(BIN)/python tests/minimum.py > .venv/minimum.txt
	[ -e .venvs/minimum ] || $(PYTHON) -m venv .venvs/minimum
	.venvs/minimum/bin/python -m pip install --quiet --constraint .venv/minimum.txt --editable '.[test]'
	.venvs/minimum/bin/python -m twisted.trial --rterrors --temp-directory=_trial_temp-minimum $(QUICK)

bench: $(INSTALLED)
	sh tests/bootstrap.sh peers
	sh tests/bootstrap.sh bench
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python benchmarks/run.py
	$(BIN)/python benchmarks/ssh.py
	$(BIN)/python benchmarks/hostile.py

docs: $(INSTALLED)
	$(BIN)/python -m sphinx -q -E -W --keep-going -b html -d build/doctrees docs build/site
	@echo "build/site/index.html"

messages: $(INSTALLED)
	mkdir -p build
	PYTHONPATH=. $(BIN)/pybabel -q extract --mapping babel.cfg --no-location --sort-output -o build/relayd.pot relayd
	$(BIN)/pybabel -q update -D relayd -i build/relayd.pot -d relayd/language/locale --no-wrap --no-fuzzy-matching \
		--ignore-obsolete --ignore-pot-creation-date
	$(BIN)/pybabel -q compile -D relayd -d relayd/language/locale --statistics

fuzz: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --editable '.[fuzz]'
	nice -n 19 $(BIN)/python -m tests.fuzz $(TARGET) $(if $(TARGET),$(SECONDS))

clean:
	rm -rf .venv .venvs .coverage.d build dist *.egg-info _trial_temp* .hypothesis .mypy_cache .ruff_cache tests/node/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUNS): pyproject.toml setup.py tests/bootstrap.sh
	@echo "relayd: installing relayd and its libraries in .venv, which takes half a minute" >&2
	@sh tests/bootstrap.sh python $(PYTHON)
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(INSTALLED): pyproject.toml setup.py tests/bootstrap.sh
	sh tests/bootstrap.sh python $(PYTHON)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[test,dev,docs]'
	touch $@ $(RUNS)
