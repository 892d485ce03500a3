VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)

# `make test` is all that has to pass; it installs what it needs first. The rest are its parts.

PAGE_TEST := gateway/tests/page/run.sh

.PHONY: help test tools fmt lint doc page smoke metrics chart-test balancers roll-test kube-test fuzz unit deny run build bench image chart dist

help:
	@echo "make run     a gateway in development mode, with a demo page"
	@echo "make test    every check, after installing what is missing"
	@echo "make tools   only install what is missing"
	@echo "make image   the container image sse-gateway:$(VERSION), with all three programs"
	@echo "make chart   the Helm chart as an archive"
	@echo "make kube-test    the Helm chart on the cluster that kubectl points at, under load"
	@echo "make dist    an archive of static programs, completions and man pages, with checksums"
	@echo "make fuzz    each fuzz target for FUZZ_SECONDS (5)"
	@echo "make bench   timings of the hub, and instructions against a baseline"
	@echo "make fmt | lint | doc | deny | page | smoke | metrics | chart-test | balancers | roll-test | fuzz | unit    one check"

# The tests come last, so that their count closes the output.
test:
	@$(MAKE) --no-print-directory tools
	@$(MAKE) --no-print-directory fmt
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory doc
	@$(MAKE) --no-print-directory deny
	@$(MAKE) --no-print-directory build
	@$(MAKE) --no-print-directory page
	@$(MAKE) --no-print-directory smoke
	@$(MAKE) --no-print-directory metrics
	@$(MAKE) --no-print-directory chart-test
	@$(MAKE) --no-print-directory balancers
	@$(MAKE) --no-print-directory roll-test
	@$(MAKE) --no-print-directory fuzz
	@$(MAKE) --no-print-directory unit

run:
	cargo run --release -p gateway

build:
	cargo build --workspace

tools:
	@.ci/tools

fmt:
	cargo fmt --all -- --check

lint:
	cargo clippy --workspace --all-targets -- -D warnings

doc:
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# Not the advisories: their database is a download that a build should not depend on.
deny:
	cargo deny check bans licenses sources

page:
	@if [ -e $(PAGE_TEST) ]; then bash $(PAGE_TEST); fi

smoke: build
	@loadtest/smoke.sh

# Dashboards and alerts against a real Prometheus.
metrics: build
	@docs/configuration.py --check
	@deploy/prometheus/test.sh

# The Helm chart on paper: lint, templates, decisions.
chart-test: build
	@cmp deploy/prometheus/alerts.yml helm/sse-gateway/files/alerts.yaml
	@for board in deploy/grafana/*.json; do cmp $$board helm/sse-gateway/files/dashboards/$$(basename $$board); done
	@helm/test.sh

# HAProxy and nginx as shipped.
balancers: build
	@deploy/balancer-test.py

# One short roll of three nodes under a small load, with browsers; `deploy/roll-test.sh` is the long one.
roll-test: build
	@PROFILE=debug SPREAD=4 deploy/roll-test.sh 600 1

# Not a part of `make test`: kubectl may point at any cluster. Says so where it reaches none.
kube-test:
	@deploy/kube-test.sh

# The parsers, with whatever a fuzzer comes up with.
fuzz:
	@gateway/fuzz/run.sh

image:
	docker build -f deploy/Dockerfile -t sse-gateway:$(VERSION) --build-arg VERSION=$(VERSION) \
	  --build-arg REVISION=$$(git rev-parse HEAD) .

dist:
	@deploy/dist.sh

# The chart as an archive in target/.
chart:
	helm package helm/sse-gateway --destination target

unit:
	@.ci/unit

bench:
	cargo bench -p gateway --bench hub
	@gateway/benches/instructions.sh
