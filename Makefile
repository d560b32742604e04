# Every verb is one line; what it does lives in the file it calls. SITE is an inventory folder.
SITE ?= inventory/lab
STORE ?= build/store
PYTHON := .venv/bin/python
PLAYBOOK = cd ansible && ../.venv/bin/ansible-playbook -i ../$(SITE)

.DEFAULT_GOAL := help
.PHONY: help setup fmt lint test check artifacts up down site e2e e2e-nfs bench molecule generate verify docs fuzz

help: ## show the verbs
	@awk -F ':.*## ' '/^[a-z0-9_-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install what this machine needs to build and run labcluster (root, Debian or Ubuntu)
	@./setup.sh

fmt: ## format Python and Go
	@.venv/bin/ruff format . && .venv/bin/ruff check --fix --quiet . && gofmt -l -w images/runner

lint: ## ruff, mypy, import-linter, yamllint, ansible-lint (production profile)
	@$(PYTHON) lab/stages.py lint

check: ## lint, unit, repo and chart tests, generated files: needs no network, root or cluster
	@$(PYTHON) lab/stages.py lint unit verify

artifacts: ## build binaries and images into build/store (only what changed)
	@$(PYTHON) images/build.py --store $(STORE)

up: ## from this machine to a finished training run on a virtual site of six hosts
	@./setup.sh && $(PYTHON) lab/up.py --site $(SITE)

down: ## remove everything of the lab, and nothing else
	@$(PYTHON) lab/up.py --site $(SITE) --down

site: ## run site.yml on SITE
	@$(PLAYBOOK) playbooks/site.yml

e2e: ## test the running lab as its users use it, the long tests too (lost nodes, crashes, outages)
	@$(PYTHON) -m pytest tests/e2e --site $(SITE)

e2e-nfs: ## prove both NFS roles in two virtual machines (root, 15 min; not part of test)
	@./setup.sh --with-vms && $(PYTHON) lab/stages.py e2e-nfs

bench: ## measure the running lab and write docs/reference/benchmarks.md
	@$(PYTHON) -m tests.bench --site $(SITE) --write docs/reference/benchmarks.md

molecule: ## run the molecule scenarios of the roles that the lab does not prove
	@$(PYTHON) lab/stages.py molecule

generate: ## write docs/reference from schemas, specs and --help
	@$(PYTHON) docs/generate.py

verify: ## fail where a generated file is not what its source says
	@$(PYTHON) docs/generate.py --check

fuzz: ## send 10,000 random requests of members through the admission policies
	@$(PYTHON) -m pytest -q -s tests/integration/test_admission_property.py --examples 10000

test: ## check, artifacts, lab up, e2e but for its long tests (root, Debian or Ubuntu, package registries)
	@./setup.sh --with-tests && $(PYTHON) lab/stages.py lint unit verify artifacts integration molecule up e2e
