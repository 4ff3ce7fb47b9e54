#!/usr/bin/env bash
# Passes the tests, on a fresh machine too: looks for what it needs, installs what it can, and says
# plainly what it could not have. No services are needed.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\n== %s\n' "$*"; }

need() { # program, Debian package
    command -v "$1" >/dev/null && return
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "installing $2, because $1 is missing"
        apt-get update -qq && apt-get install -y -qq "$2" >/dev/null
    fi
    command -v "$1" >/dev/null || { echo "missing: $1. Install it (Debian: apt-get install $2) and start again." >&2; exit 1; }
}

command -v cargo >/dev/null || { echo "missing: cargo. Install Rust 1.95 or newer (https://rustup.rs) and start again." >&2; exit 1; }
need cc gcc
need python3 python3
need openssl openssl

say "tests"
counts=""
if cargo nextest --version >/dev/null 2>&1; then
    output=$(mktemp)
    trap 'rm -f "$output"' EXIT
    cargo nextest run --workspace --all-features 2>&1 | tee "$output"
    counts=$(sed -n 's/.*tests run: \([0-9]* passed\).*, \([0-9]* skipped\).*/\1, 0 failed, \2/p' "$output" | tail -n 1)
else
    echo "cargo-nextest is not installed; cargo test does the same more slowly"
    cargo test --workspace --all-features --lib --bins --tests
fi

say "documentation that is code"
cargo test --workspace --all-features --doc --quiet

say "simulation: 300 seeds"
cargo run --release --quiet -p mamos-simulation --bin mamos-sim -- --seeds 300

say "real crashes: 50 rounds of kill -9"
# The driver starts its two victims from beside itself.
cargo build --release --quiet -p mamos-simulation --bins
cargo run --release --quiet -p mamos-simulation --bin mamos-crash -- --rounds 50

say "restarts: a server and 50 agents over WebSockets, killed, paused, stopped and cut off"
cargo run --release --quiet -p mamos-simulation --bin mamos-restart -- --scenario all --agents 50 --seed 1

say "all tests passed"
[ -z "$counts" ] || echo "$counts"
