# SPDX-License-Identifier: LGPL-2.1-only
#
#   make test [SM=checkout]   unit tests, then the storage tests in the lab
#   make package [XSCONSOLE=checkout] [XCPNG_TESTS=checkout]   the RPM packages, the host's menu, and
#                             the tests for XCP-ng's own suite
#   make storage-all [SM=…]   all storage tests, those of an hour too
#   make faults [SM=…]        the fault campaign; TRIALS=50 kills at each program of each call, and
#                             tries what is random as often,
#                             SEED=… repeats a run, REPORT=… is where its table goes
#   make bench [SM=…]         speed beside ext and the article's way, into build/bench; ROUNDS=5
#   make xo                   tests of the plugin for Xen Orchestra, on Node.js and Chromium
#   make demo [SM=checkout]   the mission, step by step, in the lab; make record: its picture in docs
#   make install [DESTDIR=]   on a host, or into a folder
#   make rpm                  packages for XCP-ng 8.3 and 9, in build/

SM_DIR = /opt/xensource/sm
LIBEXEC_DIR = /opt/xensource/libexec
PLUGINS_DIR = /etc/xapi.d/plugins
SBIN_DIR = /usr/sbin
UNIT_DIR = /usr/lib/systemd/system
XSCONSOLE_DIR = /usr/lib64/xsconsole/plugins-extras
# Where XAPI may look for drivers (its sm-dir); XCP-ng 9 has the second folder.
DRIVER_DIRS ?= $(SM_DIR) $(patsubst $(DESTDIR)%,%,$(wildcard $(DESTDIR)/usr/libexec/sm/drivers))
PYTHON_SITE ?= $(shell python3 -c "import sysconfig; print(sysconfig.get_path('purelib'))")

PYTHON ?= python3
VENV = .venv

ifeq ($(SM),)
unexport SM
else
export SM
endif

NPM = tests/xo/node_modules

.PHONY: test unit package xo screenshots storage storage-all faults bench demo record lint \
	rpm install uninstall tools clean

test: lint unit package xo storage

lint: $(VENV)/ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

unit: $(VENV)/ready
	tools/unit-tests $(VENV)/bin/python

# Of the real xsconsole, when XSCONSOLE names a checkout of it; XCP-ng's suite, when XCPNG_TESTS does.
package: $(VENV)/ready
	$(VENV)/bin/python -m pytest tests/package

xo: $(NPM)/ready
	node --test tests/xo/*.test.js

screenshots: $(NPM)/ready
	SCREENSHOTS=docs/images node --test tests/xo/page.test.js

# Files begin in their order: by number of tests, as is the default, those that boot often would come
# last, when the other worker has nothing left to do.
STORAGE = $(VENV)/bin/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder \
	  --durations 20

TRIALS = 10
REPORT = faults.md

# Of the fault campaign only what is marked short, which tries the same each time.
storage: $(VENV)/ready $(NPM)/ready
	@echo "Not run here, as they take too long, and counted as deselected below: tests marked slow."
	@$(VENV)/bin/python -m pytest --quiet --collect-only -m slow tests/storage tests/faults | tail -n 1
	$(STORAGE) -m "not slow" --campaign-seed 1 tests/storage tests/faults

storage-all: $(VENV)/ready $(NPM)/ready
	$(STORAGE) tests/storage

faults: $(VENV)/ready
	$(STORAGE) --trials $(TRIALS) $(if $(SEED),--campaign-seed $(SEED)) \
	  --campaign-report $(REPORT) tests/faults

ROUNDS = 5

bench: $(VENV)/ready
	$(VENV)/bin/python -m tests.bench --rounds $(ROUNDS)

demo: $(VENV)/ready
	$(VENV)/bin/python -m tests.lab.demo

record: $(VENV)/ready
	$(VENV)/bin/python tools/record-demo docs/images/demo.svg

# Packages of the distribution, then Python tools in a folder of their own.
$(VENV)/ready: requirements-dev.txt tools/install-packages
	tools/install-packages
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --requirement requirements-dev.txt
	touch $@

rpm: $(VENV)/ready
	tools/build-rpm build

# Without a lock file: it would name a registry.
$(NPM)/ready: tests/xo/package.json tools/install-packages
	tools/install-packages
	npm install --prefix tests/xo --no-package-lock --no-audit --no-fund --loglevel=error
	touch $@

install:
	install -d $(DESTDIR)$(SM_DIR)/luksext $(DESTDIR)$(LIBEXEC_DIR) $(DESTDIR)$(PYTHON_SITE) \
	  $(DESTDIR)$(PLUGINS_DIR) $(DESTDIR)$(SBIN_DIR) $(DESTDIR)$(XSCONSOLE_DIR)
	install -m 755 drivers/LUKSEXTSR.py $(DESTDIR)$(SM_DIR)
	for folder in $(DRIVER_DIRS); do \
	  install -d $(DESTDIR)$$folder; \
	  ln -sfr $(DESTDIR)$(SM_DIR)/LUKSEXTSR.py $(DESTDIR)$$folder/LUKSEXTSR; \
	done
	install -m 644 drivers/luksext_*.py $(DESTDIR)$(SM_DIR)
	install -m 644 drivers/luksext/*.py $(DESTDIR)$(SM_DIR)/luksext
	install -m 755 libexec/luksext-* $(DESTDIR)$(LIBEXEC_DIR)
	install -m 755 drivers/plugins/luksext $(DESTDIR)$(PLUGINS_DIR)
	install -m 755 bin/luksext $(DESTDIR)$(SBIN_DIR)
	install -m 644 python/luksext_plugins.py python/luksext.pth $(DESTDIR)$(PYTHON_SITE)
	install -m 644 xsconsole/XSFeatureLuksExt.py $(DESTDIR)$(XSCONSOLE_DIR)
	for unit in SMGC@ xapi storage-init; do \
	  install -d $(DESTDIR)$(UNIT_DIR)/$$unit.service.d; \
	  install -m 644 systemd/$$unit.service.d/luksext.conf $(DESTDIR)$(UNIT_DIR)/$$unit.service.d; \
	done

# Also what Python made of the files when it first loaded them.
uninstall:
	for folder in $(DRIVER_DIRS); do rm -f $(DESTDIR)$$folder/LUKSEXTSR; done
	rm -rf $(DESTDIR)$(SM_DIR)/luksext
	rm -f $(DESTDIR)$(SM_DIR)/LUKSEXTSR.py \
	  $(DESTDIR)$(SM_DIR)/luksext_*.py $(DESTDIR)$(PLUGINS_DIR)/luksext $(DESTDIR)$(SBIN_DIR)/luksext \
	  $(DESTDIR)$(LIBEXEC_DIR)/luksext-* \
	  $(DESTDIR)$(PYTHON_SITE)/luksext_plugins.py $(DESTDIR)$(PYTHON_SITE)/luksext.pth \
	  $(DESTDIR)$(XSCONSOLE_DIR)/XSFeatureLuksExt.py \
	  $(DESTDIR)$(UNIT_DIR)/SMGC@.service.d/luksext.conf \
	  $(DESTDIR)$(UNIT_DIR)/xapi.service.d/luksext.conf \
	  $(DESTDIR)$(UNIT_DIR)/storage-init.service.d/luksext.conf \
	  $(DESTDIR)/etc/xapi.conf.d/~luksext.conf \
	  $(DESTDIR)$(SM_DIR)/__pycache__/luksext_*.pyc $(DESTDIR)$(SM_DIR)/__pycache__/LUKSEXTSR.*.pyc \
	  $(DESTDIR)$(PYTHON_SITE)/__pycache__/luksext_plugins.*.pyc \
	  $(DESTDIR)$(XSCONSOLE_DIR)/__pycache__/XSFeatureLuksExt.*.pyc

clean:
	rm -rf $(VENV) $(NPM) .venv36 build .mypy_cache .pytest_cache .ruff_cache .hypothesis
