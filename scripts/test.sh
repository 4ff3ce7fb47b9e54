#!/usr/bin/env bash
# Passes the tests, on a fresh machine too. Looks for what they need, installs what it can, uses servers that answer,
# starts private ones for the rest, and says plainly what it could not have. With CI=true a missing server is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\n== %s\n' "$*"; }

install() { # Debian package
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    say "installing $1"
    # What it starts by itself is of no use here: the tests start their own.
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$1"; } >/dev/null 2>&1
}

need() { # program, Debian package
    command -v "$1" >/dev/null && return
    install "$2" || true
    command -v "$1" >/dev/null || { echo "missing: $1. Install it (Debian: apt-get install $2) and start again." >&2; exit 1; }
}

missing=()
server() { # name in the tests, Debian package, paths of which one must be there
    local name=$1 package=$2
    shift 2
    local path
    for path in "$@"; do compgen -G "$path" >/dev/null && return; done
    install "$package" || true
    for path in "$@"; do compgen -G "$path" >/dev/null && return; done
    echo "missing: $name. Its tests need it (Debian: apt-get install $package)." >&2
    missing+=("$name")
}

command -v cargo >/dev/null || { echo "missing: cargo. Install Rust 1.95 or newer (https://rustup.rs) and start again." >&2; exit 1; }
need cc gcc
need python3 python3
need openssl openssl
server postgres postgresql '/usr/lib/postgresql/*/bin/postgres' '/usr/bin/postgres' '/usr/local/bin/postgres'
server redis redis-server '/usr/bin/redis-server' '/usr/local/bin/redis-server' '/usr/bin/valkey-server'
server nats nats-server '/usr/sbin/nats-server' '/usr/bin/nats-server' '/usr/local/bin/nats-server'
server amqp rabbitmq-server '/usr/lib/rabbitmq/bin/rabbitmq-server' '/usr/sbin/rabbitmq-server'
server haproxy haproxy '/usr/sbin/haproxy' '/usr/bin/haproxy' '/usr/local/bin/haproxy'
server clocks libfaketime '/usr/lib/*/faketime/libfaketime.so.1'
# A disk that gets full is a small one that is mounted.
[ "$(id -u)" = 0 ] || { echo "missing: the right to mount. Tests of a full disk need it: start as root." >&2; missing+=(disk); }
if [ ${#missing[@]} -gt 0 ] && [ "${CI:-}" = true ]; then
    echo "CI has no tests without: ${missing[*]}" >&2
    exit 1
fi
has() { local name; for name in "${missing[@]}"; do [ "$name" != "$1" ] || return 1; done; }

# The binaries of tests are named after the servers that they need, and so are modules of unit tests.
tests='all()'
for name in "${missing[@]}"; do tests="$tests - binary(~$name) - test(~with_$name)"; done
has postgres && has redis && has nats && has amqp || tests="$tests - binary(servers)"

say "tests"
counts=""
cargo build --quiet -p mamos-testbed
testbed=${CARGO_TARGET_DIR:-target}/debug/mamos-testbed
if cargo nextest --version >/dev/null 2>&1; then
    output=$(mktemp)
    trap 'rm -f "$output"' EXIT
    "$testbed" cargo nextest run --workspace --all-features -E "$tests" 2>&1 | tee "$output"
    counts=$(sed -n 's/.*tests run: \([0-9]* passed\).*, \([0-9]* skipped\).*/\1, 0 failed, \2/p' "$output" | tail -n 1)
else
    [ ${#missing[@]} -eq 0 ] || { echo "without ${missing[*]} the tests need cargo-nextest, which can leave some out" >&2; exit 1; }
    echo "cargo-nextest is not installed; cargo test does the same more slowly"
    "$testbed" cargo test --workspace --all-features --lib --bins --tests
fi

say "documentation that is code"
cargo test --workspace --all-features --doc --quiet

say "programs of the tests below"
# Of the whole workspace, as everything else in release mode: one package alone would want its dependencies built anew.
programs=(mamos-sim mamos-crash mamos-crash-agent mamos-crash-orchestrator mamos-restart mamos-faults)
# shellcheck disable=SC2068
cargo build --release --quiet ${programs[@]/#/--bin=}
release=${CARGO_TARGET_DIR:-target}/release

say "simulation: 300 seeds"
"$release/mamos-sim" --seeds 300

say "real crashes: 50 rounds of kill -9"
"$release/mamos-crash" --rounds 50

say "restarts: a server and 50 agents over WebSockets, killed, paused, stopped and cut off"
"$release/mamos-restart" --scenario all --agents 50 --seed 1

say "real databases and brokers, stopped under a fleet"
scenarios=()
has postgres && scenarios+=(postgres three)
has redis && scenarios+=(redis three-redis)
has postgres && has nats && scenarios+=(nats)
has postgres && has redis && scenarios+=(redis-bus)
has postgres && has amqp && scenarios+=(rabbitmq)
has postgres && has clocks && scenarios+=(clocks)
for scenario in "${scenarios[@]}"; do
    "$release/mamos-faults" --scenario "$scenario" --seed 1
done

if [ ${#missing[@]} -gt 0 ]; then
    say "passed, but for all that needs: ${missing[*]}"
else
    say "all tests passed"
fi
[ -z "$counts" ] || echo "$counts"
