#!/usr/bin/env bash
# A short run of every measure, for CI: it shows that they run and lose nothing. The figures mean little.
# Servers as the tests find them: `target/debug/mamos-testbed bash scripts/bench-quick.sh` starts those that are missing.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --release --quiet --bin mamos-bench
bench=target/release/mamos-bench
postgres=${MAMOS_TEST_POSTGRES:-postgres://postgres@127.0.0.1:5432/test?sslmode=disable}
redis=${MAMOS_TEST_REDIS:-redis://127.0.0.1:6379}
nats=${MAMOS_TEST_NATS:-nats://127.0.0.1:4222}
amqp=${MAMOS_TEST_AMQP:-amqp://guest:guest@127.0.0.1:5672/%2f}

"$bench" --store memory --quick
"$bench" --store sqlite --quick
"$bench" --store postgres --url "$postgres" --quick
"$bench" --store redis --url "$redis" --quick
"$bench" neighbours --store postgres --url "$postgres" --quick
"$bench" neighbours --store redis --url "$redis" --quick
"$bench" link --bus nats --url "$nats" --quick
"$bench" link --bus redis --url "$redis" --quick
"$bench" link --bus amqp --url "$amqp" --quick
"$bench" agents --count 500 --store sqlite --hold-seconds 5 --jobs 20000
