# make quickstart   which training sequences made this model say that? (README)
# make test         the whole suite
# make lint         format and lint, changes nothing
# make docs         the documentation as a site, in site/; warnings are errors
# make bench        times against kronfluence: results/benchmark.json and .png
# make figures      every ladder and study, the table of the paper's claims: many
#                   hours, said before it starts; the same command goes on
# make validate     estimates against what they estimate (docs/validation.md):
#                   the same command goes on

PYTHON ?= $(shell command -v python3.11 || command -v python3)
RUN = .venv/bin/python

# Large arrays in huge pages: where glibc >= 2.35 and the kernel's setting is
# madvise or always, training steps on a CPU take about half the time.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: quickstart test lint docs bench figures validate

quickstart: .venv/installed
	$(RUN) -m experiments.quickstart --config=configs/quickstart.py \
	  --workdir=runs/quickstart

test: .venv/installed
	$(RUN) -m pytest -q --durations=10

lint: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

docs: .venv/installed
	.venv/bin/pip install --quiet --disable-pip-version-check -e '.[test,docs]'
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

bench: .venv/installed
	.venv/bin/pip install --quiet --disable-pip-version-check -e '.[test,bench]'
	$(RUN) -m benchmarks.compare --cases=small,medium,large \
	  --workdir=runs/benchmark --out=results/benchmark.json

# Two host devices train faster than one on two cores.
figures: export JAX_NUM_CPU_DEVICES ?= 2
figures: .venv/installed
	$(RUN) -m experiments.reproduce --config=configs/figures.py --workdir=runs
	$(RUN) -m experiments.figures --workdir=runs --out=results \
	  --readme=README.md

validate: .venv/installed
	$(RUN) -m experiments.reproduce --config=configs/figures.py --workdir=runs \
	  "--config.figures.only=('validation',)"
	$(RUN) -m experiments.figures --workdir=runs --out=results \
	  --readme=README.md

.venv/installed: setup.py
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@
