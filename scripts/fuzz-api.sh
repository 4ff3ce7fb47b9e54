#!/bin/sh
# Lets Schemathesis (pip install schemathesis) loose on the API, once for each role. Fails if anything is
# answered with a server error, or otherwise than the OpenAPI document says.
#
# Usage: scripts/fuzz-api.sh [examples for each operation, default 20]
set -eu
cd "$(dirname "$0")/.."
examples=${1:-20}
work=$(mktemp -d)
mkfifo "$work/input"
cargo build --quiet -p mamos-http --example api_for_fuzzing
target=${CARGO_TARGET_DIR:-target}
"$target/debug/examples/api_for_fuzzing" <"$work/input" >"$work/output" &
server=$!
# Holds the server's input open; it ends when this script does.
exec 3>"$work/input"
trap 'exec 3>&-; kill "$server" 2>/dev/null || true; rm -rf "$work"' EXIT
while [ "$(wc -l <"$work/output")" -lt 5 ]; do
    kill -0 "$server"
    sleep 0.1
done
address=$(head -n 1 "$work/output")
failed=0
sed 1d "$work/output" | while read -r role key; do
    echo "== role $role"
    schemathesis run "$address/api/v1/openapi.json" --url "$address" \
        --header "Authorization: Bearer $key" \
        --checks not_a_server_error,response_schema_conformance,status_code_conformance,content_type_conformance,response_headers_conformance \
        --phases examples,coverage,fuzzing --max-examples "$examples" --request-timeout 70 \
        --exclude-path-regex '/events|/link|/follow|/ws$' --no-color --seed 1 </dev/null || exit 1
done || failed=1
exit "$failed"
