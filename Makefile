# The two commands: `make demo` and `make test`. Everything else serves them.

.PHONY: demo test chaos check deny doc test-tools fmt bench bench-micro

ROUNDS ?= 5
SECONDS ?= 3

# Builds, streams a simulated fleet into a fresh gateway, verifies what was stored.
# DEVICES=200 DURATION=20s KEEP=1 (leaves the gateway running)
demo:
	./scripts/demo.sh

# Installs what the tests need, then runs all of them.
test: test-tools
	cargo test --workspace --locked

# The long trials of the promise: kills, power cuts, full and failing disks, each until its figure in
# the table is reached; ends non-zero if anything acknowledged was lost. Hours, as root; goes on
# where it was stopped. CHAOS_TRIALS=kill_9_of_a_fleet,… CHAOS_SEED=7; target/chaos/report.json
chaos: test-tools
	cargo build --release --workspace --examples --bins --locked
	cargo test --release -p gateway --locked --test chaos -- --ignored --exact table::every_row --nocapture

# Formatting, lints, documentation, licences and sources of dependencies.
check: deny
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

# Licences, sources and bans of dependencies, by the rules in deny.toml.
deny:
	./scripts/deny.sh

# The foreign clients and commands that the tests use.
test-tools:
	./scripts/test-tools.sh

fmt:
	cargo fmt --all

# Where the speed stands: the gateway beside its comparators, see PERFORMANCE.md. Leaves
# target/bench/report.json. CASES=single,batch100 measures a part; ROUNDS=5, SECONDS=3.
bench:
	./scripts/bench-tools.sh
	cargo build --release --locked -p gateway -p bench --bins --example store_bench
	target/release/bench run --rounds $(ROUNDS) --seconds $(SECONDS) $(if $(CASES),--cases $(CASES))

# Steps of a reading one by one, with criterion: FILTER=decode for some of them.
bench-micro:
	cargo bench --locked -p proto --bench decode -- $(FILTER)
	cargo bench --locked -p gateway --bench path -- $(FILTER)
