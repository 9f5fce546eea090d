# `make` alone lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.PHONY: help demo test test-api test-browser test-full bench release lint fmt deps clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

demo: ## Run it on a development server with sample data, until Ctrl-C
	@scripts/install-deps.sh server
	@scripts/demo.sh

test: ## Run the whole suite against a development server
	@scripts/install-deps.sh test
	@scripts/test.sh

test-api: ## Test the API of a running daemon with schemathesis
	@scripts/install-deps.sh outside
	@scripts/test-api.sh

test-browser: ## Test the dashboard in headless Chromium; screenshots go to target/browser
	@scripts/install-deps.sh outside
	@scripts/test-browser.sh

test-full: ## Run the suite on every installed PostgreSQL version, and check dependencies, packaging and release
	@scripts/install-deps.sh full
	@scripts/test-full.sh

bench: ## Measure the project's figures; ONLY="start memory" selects some
	@scripts/install-deps.sh server
	. scripts/release-env.sh && cargo bench --locked --bench figures -- $(ONLY)

release: ## Build target/release/pgsteward without local paths in it
	scripts/release.sh

lint: ## Check format, clippy and documentation
	cargo fmt --check
	cargo clippy --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --no-deps --document-private-items --locked

fmt: ## Format the sources
	cargo fmt

deps: ## Install what tests need: a PostgreSQL server, PgBouncer, promtool, systemd-analyze
	@scripts/install-deps.sh test

clean: ## Remove build results
	cargo clean
