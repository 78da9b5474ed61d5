# Every target sets up what it needs, once, in .venv. Needs Python 3.11 or newer; uses uv when it is there, else pip.
SHELL  := /bin/bash
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
RUN    := $(BIN)/python -m
UV     := $(shell command -v uv 2>/dev/null)
PIP    := $(if $(UV),$(UV) pip install --quiet --python $(BIN)/python,$(RUN) pip install --quiet --disable-pip-version-check)
MAKE_VENV := $(if $(UV),$(UV) venv --quiet --python $(PYTHON) $(VENV),$(PYTHON) -m venv $(VENV))
JOBS   ?= 2
DEMO   := demo

.DEFAULT_GOAL := help
.PHONY: help lab grade test fuzz verify export readme derive models clean conformance conformance-docker bench-grading bench-quantize bench-serve bench-tfserving bench-swaps bench-drift

help:  ## Say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-18s %s\n", $$1, $$2}'

# --- environments -----------------------------------------------------------------------------------------------------------
# One environment, grown as needed. A stamp says that an extra is installed; it goes stale when what it was made from changes.

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "Python 3.11 or newer is needed; '$(PYTHON)' is not. Name yours:  make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(MAKE_VENV) || { echo "Could not make $(VENV). On Debian and Ubuntu:  apt install python3-venv"; exit 1; }

$(VENV)/%.stamp: settings.ini setup.py constraints.txt | $(BIN)/python
	@echo "Installing what '$*' needs into $(VENV) (once) ..."
	@$(PIP) -c constraints.txt -e '.[$*]' || { echo "Installing failed. Look at the message above; check the network, then run 'make' again. To start afresh:  make clean"; exit 1; }
	@touch $@

# the development environment holds everything that grading and labs need
GRADE := $(if $(wildcard $(VENV)/dev.stamp),$(VENV)/dev.stamp,$(VENV)/grade.stamp)
LAB   := $(if $(wildcard $(VENV)/dev.stamp),$(VENV)/dev.stamp,$(VENV)/lab.stamp)
DEV   := $(VENV)/dev.stamp

# A second version of scikit-learn beside ours: tests open each one's pickles with the other.
OLDER := $(VENV)/older/ready
$(OLDER): | $(BIN)/python
	@echo "Installing an older scikit-learn beside ours, for the tests of pickles (once) ..."
	@$(PIP) --no-deps $(if $(UV),,--no-warn-conflicts) --target $(@D) scikit-learn==1.5.2 numpy==2.0.2 scipy==1.14.1 || { echo "Installing failed. Look at the message above; check the network, then run 'make' again."; exit 1; }
	@touch $@

# --- for users --------------------------------------------------------------------------------------------------------------

lab: $(LAB)  ## Open JupyterLab on the labs
	$(BIN)/jupyter lab labs

grade: $(GRADE)  ## Grade a demo class of 24 and write its report
	@$(BIN)/mlops-course demo-class $(DEMO)/class
	@$(BIN)/mlops-course grade $(DEMO)/class --lab 09_drift --out $(DEMO)/graded; code=$$?; \
	 if [ $$code -eq 3 ]; then echo "(The refused ones are meant to be refused: the demo class holds a file that is no notebook, and an empty one.)"; \
	 elif [ $$code -ne 0 ]; then exit $$code; fi
	@echo "Open $(DEMO)/graded/report/index.html"

# Each chapter in a process of its own, as its reader has it: what one has imported must not help or harm another.
# Hypothesis asks the same in every run where CI is set; 'make fuzz' asks anew
test: export CI := 1
test: $(DEV) $(OLDER)  ## Check everything: export, notebooks, labs, tests
	@command -v prometheus >/dev/null && command -v promtool >/dev/null || { echo "Chapter 10 needs the commands prometheus and promtool. Debian and Ubuntu:  apt-get install --no-install-recommends prometheus   macOS:  brew install prometheus   else:  https://prometheus.io/download" >&2; exit 1; }
	@echo "== the package is what the notebooks export";      $(RUN) pytest -q -p no:cacheprovider tests/test_project.py
	@echo "== every chapter runs";                            find nbs -name '*.ipynb' -not -path '*/.*' | sort | xargs -P $(JOBS) -n 1 $(BIN)/nbdev-test --n-workers 0 --do-print
	@echo "== the students' copies are up to date";           $(BIN)/mlops-course derive --check
	@echo "== the solutions show what they stored (nbval)";   $(RUN) pytest -q -p no:cacheprovider --nbval solutions
	@echo "== labs hold (short; 'make verify' for all)";      $(BIN)/mlops-course verify --seeds 3 --mutants 10 --jobs $$((2 * $(JOBS)))
	@echo "== tests";                                         $(RUN) pytest -q -p no:cacheprovider -n $(JOBS) --dist worksteal tests --ignore tests/test_project.py

fuzz: $(DEV)  ## Look for inputs that break something: the generated tests with new examples, and more of them
	$(RUN) pytest -q -p no:cacheprovider -n $(JOBS) --hypothesis-profile=fuzz $$(grep -l hypothesis tests/test_*.py)

conformance: $(DEV)  ## Play the cases of TF Serving's protocol against our server (CASES=folder with others')
	@CUDA_VISIBLE_DEVICES=-1 TF_CPP_MIN_LOG_LEVEL=3 $(RUN) tests.conformance $(if $(CASES),'$(CASES)')

# Without Docker it says so and gives 69 ("Error 69" in make's words)
conformance-docker: $(DEV)  ## The same against Google's tensorflow/serving in Docker, where there is one
	@CUDA_VISIBLE_DEVICES=-1 TF_CPP_MIN_LOG_LEVEL=3 $(RUN) tests.conformance.tensorflow_serving $(if $(CASES),'$(CASES)')

# --- for authors ------------------------------------------------------------------------------------------------------------

verify: $(DEV)  ## Prove every lab under 20 seeds and 60 mutants
	$(BIN)/mlops-course verify --jobs $(JOBS)

export: $(DEV)  ## Write the package, the README and the students' copies from the notebooks
	$(BIN)/nbdev-clean && $(BIN)/nbdev-export
	@$(MAKE) --no-print-directory readme derive

readme: $(DEV)
	@$(BIN)/jupyter nbconvert --log-level WARN --to markdown nbs/index.ipynb --output-dir . --output README

derive: $(DEV)
	$(BIN)/mlops-course derive

models: $(DEV)  ## Train the small models that come with the package anew
	$(BIN)/python -c 'from mlops_course.server import course_loans; print(course_loans("mlops_course/models/loans"))'
	$(BIN)/python -c 'from mlops_course.edge import course_models; print(*course_models("mlops_course/models"), sep="\n")'

# --- benchmarks ---------------------------------------------------------------------------------------------------------------
# Each grader in an environment of its own, and all of them by pip: it finds a CPU wheel of torch where one is configured, uv does not.

BENCH      := benchmarks/grading
BENCH_ENVS := $(patsubst %,benchmarks/.venv-%/ready,nbgrader otter ours)
N          ?= 48
CLASS200   ?= 1

benchmarks/.venv-ours/ready: settings.ini setup.py constraints.txt
benchmarks/.venv-%/ready: $(BENCH)/requirements/%.txt $(BENCH)/requirements/common.txt
	@echo "Installing $* for the comparison into $(@D) (once, about 3.5 GB) ..." >&2
	@test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $< $(if $(filter ours,$*),-c constraints.txt -e '.[grade]') || \
	 { echo "Installing $* failed. Look at the message above; check the network, then run 'make bench-grading' again. To start afresh:  rm -rf $(@D)" >&2; exit 1; }
	@touch $@

bench-grading: JOBS = 1
bench-grading:  ## Compare with nbgrader and otter-grader on a class of N=48 (CLASS200=0 leaves out the class of 200)
	@$(MAKE) --silent --no-print-directory --keep-going $(BENCH_ENVS) || echo "Not every environment could be made; going on with those that could." >&2
	@test -x benchmarks/.venv-ours/bin/mlops-course || { echo "The comparison itself runs in benchmarks/.venv-ours, which is not there; see the message above." >&2; exit 1; }
	@benchmarks/.venv-ours/bin/python $(BENCH)/run.py --n $(N) --jobs $(JOBS) $(if $(filter 0,$(CLASS200)),--no-large)

# The servers, likewise: each in an environment of its own.
SERVE      := benchmarks/serve
SERVE_ENVS := $(patsubst %,benchmarks/.venv-%/ready,serve flask fastapi litserve bentoml mlserver)

benchmarks/.venv-serve/ready: settings.ini setup.py constraints.txt
benchmarks/.venv-%/ready: $(SERVE)/requirements/%.txt
	@echo "Installing $* for the comparison into $(@D) (once, 100 to 700 MB) ..." >&2
	@test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $< $(if $(filter serve,$*),-c constraints.txt -e '.[serve]') || \
	 { echo "Installing $* failed. Look at the message above; check the network, then run 'make bench-serve' again. To start afresh:  rm -rf $(@D)" >&2; exit 1; }
	@touch $@

bench-serve:  ## Compare the server with Flask, FastAPI, LitServe, BentoML and MLServer (QUICK=1: a first look)
	@command -v wrk >/dev/null && command -v hey >/dev/null || { echo "The load generators wrk and hey are needed. On Debian and Ubuntu:  apt-get install wrk hey" >&2; exit 1; }
	@$(MAKE) --silent --no-print-directory --keep-going $(SERVE_ENVS) || echo "Not every environment could be made; going on with those that could." >&2
	@test -x benchmarks/.venv-serve/bin/python || { echo "The comparison itself runs in benchmarks/.venv-serve, which is not there; see the message above." >&2; exit 1; }
	@benchmarks/.venv-serve/bin/python $(SERVE)/run.py $(if $(filter 1,$(QUICK)),--quick)

# Model servers with TensorFlow in them, likewise
TFSERVING      := benchmarks/tfserving
TFSERVING_ENVS := $(patsubst %,benchmarks/.venv-%/ready,tfserving mlflow mlserver-tf)

benchmarks/.venv-tfserving/ready: settings.ini setup.py constraints.txt
benchmarks/.venv-%/ready: $(TFSERVING)/requirements/%.txt
	@echo "Installing $* for the comparison into $(@D) (once, about 2.5 GB) ..." >&2
	@test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $< $(if $(filter tfserving,$*),-c constraints.txt -e '.[tfserving]') || \
	 { echo "Installing $* failed. Look at the message above; check the network, then run 'make bench-tfserving' again. To start afresh:  rm -rf $(@D)" >&2; exit 1; }
	@touch $@

bench-tfserving:  ## Compare the TF Serving server with MLflow and MLServer, and gRPC with REST (QUICK=1: a first look)
	@command -v wrk >/dev/null && command -v hey >/dev/null || { echo "The load generators wrk and hey are needed. On Debian and Ubuntu:  apt-get install wrk hey" >&2; exit 1; }
	@$(MAKE) --silent --no-print-directory --keep-going $(TFSERVING_ENVS) || echo "Not every environment could be made; going on with those that could." >&2
	@test -x benchmarks/.venv-tfserving/bin/python || { echo "The comparison itself runs in benchmarks/.venv-tfserving, which is not there; see the message above." >&2; exit 1; }
	@benchmarks/.venv-tfserving/bin/python $(TFSERVING)/run.py $(if $(filter 1,$(QUICK)),--quick)

bench-swaps: $(DEV)  ## Swap 100 versions under load at 50 connections (QUICK=1: five, written to work/ only)
	@CUDA_VISIBLE_DEVICES=-1 TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/python tests/swaps.py $(if $(filter 1,$(QUICK)),--swaps 5 --out $(TFSERVING)/work,--out $(TFSERVING))

# The drift tools, likewise. Their lists of packages are whole, so nothing else is fetched (NannyML would bring 300 MB for graphics cards).
DRIFT      := benchmarks/drift
DRIFT_ENVS := $(patsubst %,benchmarks/.venv-%/ready,drift evidently alibi nannyml)

benchmarks/.venv-drift/ready: settings.ini setup.py constraints.txt
benchmarks/.venv-%/ready: $(DRIFT)/requirements/%.txt
	@echo "Installing $* for the comparison into $(@D) (once, 0.6 to 1.7 GB) ..." >&2
	@test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check $(if $(filter drift,$*),-r $< -c constraints.txt -e '.[drift]',--no-deps -r $<) || \
	 { echo "Installing $* failed. Look at the message above; check the network, then run 'make bench-drift' again. To start afresh:  rm -rf $(@D)" >&2; exit 1; }
	@touch $@

bench-drift:  ## Compare the drift report with scipy, Evidently, alibi-detect and NannyML (QUICK=1: a first look)
	@$(MAKE) --silent --no-print-directory --keep-going $(DRIFT_ENVS) || echo "Not every environment could be made; going on with those that could." >&2
	@test -x benchmarks/.venv-drift/bin/python || { echo "The comparison itself runs in benchmarks/.venv-drift, which is not there; see the message above." >&2; exit 1; }
	@benchmarks/.venv-drift/bin/python $(DRIFT)/run.py $(if $(filter 1,$(QUICK)),--quick)

bench-quantize: $(DEV)  ## Measure what quantization gains and costs (PHOTOS=folder of leaves)
	@$(BIN)/python benchmarks/quantize/run.py $(if $(PHOTOS),--photos '$(PHOTOS)')

clean:  ## Remove the environment and the demo class
	rm -rf $(VENV) $(DEMO) build *.egg-info
