# `make` alone lists what there is.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.PHONY: help demo test test-api test-browser test-full bench release lint fmt deps clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

demo: ## Show it at work on a throw-away PostgreSQL; Ctrl-C ends it
	@scripts/install-deps.sh server
	@scripts/demo.sh

test: ## Run the whole suite against a throw-away PostgreSQL
	@scripts/install-deps.sh test
	@scripts/test.sh

test-api: ## Have schemathesis ask a running daemon all that its OpenAPI document allows, and more
	@scripts/install-deps.sh outside
	@scripts/test-api.sh

test-browser: ## Use the dashboard in a headless Chromium, through an outage; keeps screenshots in target/browser
	@scripts/install-deps.sh outside
	@scripts/test-browser.sh

test-full: ## The suite on every installed PostgreSQL version, 14 to 18, the licenses, the packaging and the release binary
	@scripts/install-deps.sh full
	@scripts/test-full.sh

bench: ## Measure the project's figures; ONLY="start memory" for some
	@scripts/install-deps.sh server
	. scripts/release-env.sh && cargo bench --locked --bench figures -- $(ONLY)

release: ## Build target/release/pgsteward without paths of this machine in it
	scripts/release.sh

lint: ## Check format, clippy and documentation
	cargo fmt --check
	cargo clippy --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --no-deps --document-private-items --locked

fmt: ## Format the sources
	cargo fmt

deps: ## Install what tests need: a PostgreSQL server, PgBouncer, promtool, systemd-analyze
	@scripts/install-deps.sh test

clean: ## Remove what was built
	cargo clean
