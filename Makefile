# Each target sets itself up: `make demo` and `make test` work in a fresh clone.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready

.PHONY: venv demo demo-auto3dseg test test-doors lint bench clean docs/cli.md docs/cli.md

venv: $(READY)

# Heavy dependencies of the two peers that tests compare with are left out: only their tables and
# their way of saving weights are used.
$(READY): setup.cfg pyproject.toml constraints.txt
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --constraint constraints.txt torch
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(RUN) -m pip install --quiet --constraint constraints.txt --no-deps lighter-zoo TotalSegmentator
	touch $@

# make demo, or make demo CT=path/to/ct.nii.gz
demo: $(READY)
	$(RUN) examples/demo.py $(if $(CT),--ct "$(CT)")

demo-auto3dseg: $(READY)
	$(RUN) examples/demo_auto3dseg.py

# Idle threads of OpenMP give their core back: on a busy machine they would take it from the others.
test: $(READY)
	OMP_WAIT_POLICY=PASSIVE $(RUN) -m pytest -n auto --dist loadfile -m "not doors"

# A browser with NiiVue, a Ray cluster, a wheel: each skips, with the reason, where it is not there.
test-doors: $(READY)
	CTFM_CHROMIUM="$(shell command -v chromium || command -v google-chrome)" $(RUN) -m pytest -m doors

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# Written from the commands themselves; a test holds it.
docs/cli.md: $(READY)
	$(RUN) -c 'from ctfm.commands.helping import document; print(document(), end="")' > $@

# Written from the commands themselves; a test holds it.
docs/cli.md: $(READY)
	$(RUN) -c 'from ctfm.commands.helping import document; print(document(), end="")' > $@

# make bench NAME=fit_real_ct
bench: $(READY)
	PYTHONPATH="$(CURDIR)" $(RUN) benchmarks/$(NAME)/run.py $(ARGS)

clean:
	rm -rf $(VENV) build dist demo_output demo_auto3dseg_output
