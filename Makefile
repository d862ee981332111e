# The commands of this project. Each does its own set-up; `make demo` needs a Rust toolchain and a C compiler only.

CARGO ?= cargo
PROFILE ?= ci
BIN := target/$(PROFILE)
export PATH := $(CURDIR)/.signet/tools/bin:$(PATH)

.PHONY: demo test traced lint bench soak fuzz build setup references images

build:
	$(CARGO) build --profile $(PROFILE) --locked -p signet-control-plane -p signet-sidecar -p signet-cni -p signet-cli -p signet-sample \
		--features signet-control-plane/pkcs11

demo: build
	@$(BIN)/signet demo

setup:
	@tests/setup/install.sh

# Every program and every test at once, in one profile, so that nothing is compiled twice.
WHOLE := --locked --workspace --features signet-control-plane/pkcs11
test: setup
	$(CARGO) build --profile $(PROFILE) $(WHOLE) --bins --tests
	$(MAKE) traced
	$(CARGO) test --quiet --manifest-path tests/models/Cargo.toml --profile ci --locked --target-dir target/models
	$(CARGO) test --quiet --manifest-path tests/cedar/Cargo.toml --profile ci --locked --target-dir target/cedar
	$(CARGO) nextest run --cargo-profile $(PROFILE) $(WHOLE) --lib --bins --tests

# A service that others would have written, for the tests of how user context travels.
traced:
	$(CARGO) build --quiet --manifest-path tests/traced/Cargo.toml --profile ci --locked --target-dir target/traced

lint: setup
	$(CARGO) fmt --all --check
	$(CARGO) fetch --locked --quiet
	cargo-deny --offline check bans licenses sources
	$(CARGO) clippy --profile $(PROFILE) $(WHOLE) --all-targets -- -D warnings

# What is made of code: the definitions of custom resources, and docs/reference.
references:
	$(CARGO) run --profile $(PROFILE) --locked -p signet-kubernetes --features crd --example crds
	$(CARGO) build --profile $(PROFILE) $(WHOLE) --bins
	SIGNET_GOLDEN=1 $(CARGO) nextest run --cargo-profile $(PROFILE) $(WHOLE) --test e2e -E 'test(reference::)'

# The images' archives, of this machine's own toolchain: no registry, no daemon. The sidecar is static, so that it is all
# that its image has; the control plane is not, since PKCS #11 modules are libraries that it loads.
IMAGE_PROFILE ?= dist
IMAGE_PREFIX ?= localhost
IMAGE_VERSION ?= $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
images: export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
images:
	RUSTFLAGS="-C target-feature=+crt-static" $(CARGO) build --profile $(IMAGE_PROFILE) --locked -p signet-sidecar -p signet-cni \
		--target $(HOST) --target-dir target/static
	$(CARGO) build --profile $(IMAGE_PROFILE) --locked -p signet-control-plane -p signet-cli --features signet-control-plane/pkcs11
	python3 deploy/containers/archive.py --out target/images --version $(IMAGE_VERSION) --prefix $(IMAGE_PREFIX) \
		--static target/static/$(HOST)/$(IMAGE_PROFILE) --programs target/$(IMAGE_PROFILE)

bench:
	$(CARGO) build --release --locked -p signet-control-plane -p signet-sidecar -p signet-cli
	tests/bench/setup.sh
	tests/bench/run.sh
	$(CARGO) run --release --locked -p signet-tests --example issuance
	$(CARGO) run --release --locked -p signet-tests --example attestation
	$(CARGO) run --release --locked -p signet-tests --example revocation

# A million certificates from one authority: minutes, and some gigabytes of disk for its store.
soak:
	$(CARGO) run --release --locked -p signet-ca --example soak

# Coverage-guided fuzzing, a minute per target unless SECONDS_EACH says otherwise; then a million changed tokens, and as many decisions beside Cedar's.
fuzz:
	tests/fuzz/run.sh
	SIGNET_CASES=1000000 $(CARGO) test --release --quiet --locked -p signet-token --test it mutations
	SIGNET_CASES=1000000 $(CARGO) test --quiet --manifest-path tests/cedar/Cargo.toml --profile ci --locked --target-dir target/cedar
