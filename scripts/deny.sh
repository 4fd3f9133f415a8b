#!/usr/bin/env bash
# Holds deny.toml against Cargo.lock: licences, sources, bans. Installs cargo-deny if it is missing.
# ADVISORIES=1 asks the advisory database too, which needs a network that reaches it.
set -euo pipefail
cd "$(dirname "$0")/.."
version=0.20.2

if ! cargo deny --version 2>/dev/null | grep -qF "$version"; then
    # Built without optimisation: it reads one lock file.
    cargo install cargo-deny --version "$version" --locked --debug --quiet
fi
checks=(bans licenses sources)
[ "${ADVISORIES:-0}" = 0 ] || checks+=(advisories)
cargo deny --log-level error --all-features check "${checks[@]}"
