#!/bin/sh
# Lets Schemathesis loose on the API, once for each role. Fails if anything is answered with a server error,
# otherwise than the OpenAPI document says, or well although the role may not do it.
#
# Needs python3 with venv and pip; Schemathesis is installed into target/.
#
# Usage: scripts/fuzz-api.sh [examples for each operation, default 5]
set -eu
cd "$(dirname "$0")/.."
examples=${1:-5}
target=${CARGO_TARGET_DIR:-target}
tools=$target/schemathesis
if [ ! -x "$tools/bin/schemathesis" ]; then
    python3 -m venv "$tools"
    "$tools/bin/pip" install --quiet --disable-pip-version-check 'schemathesis==4.32.5'
fi
work=$(mktemp -d)
mkfifo "$work/input"
# Of the whole workspace, as the tests: the package alone would want its dependencies built anew.
cargo build --quiet --workspace --all-features --example api_for_fuzzing
"$target/debug/examples/api_for_fuzzing" <"$work/input" >"$work/said" 2>"$work/log" &
server=$!
# Holds the server's input open; it ends when this script does.
exec 3>"$work/input"
trap 'exec 3>&-; kill "$server" 2>/dev/null || true; rm -rf "$work"' EXIT
until grep -q '^ready$' "$work/said"; do
    kill -0 "$server" || { cat "$work/log" >&2; exit 1; }
    sleep 0.1
done
url=$(sed -n 's/^url //p' "$work/said")
checks=not_a_server_error,response_schema_conformance,status_code_conformance,content_type_conformance
checks=$checks,response_headers_conformance,the_role_permits_it
for role in $(sed -n 's/^role \([^ ]*\) .*/\1/p' "$work/said"); do
    echo "== role $role"
    key=$(sed -n "s/^role $role //p" "$work/said")
    MAMOS_FUZZ_ROLE=$role MAMOS_FUZZ_KNOWN=$work/said SCHEMATHESIS_HOOKS=scripts/fuzz_hooks.py \
        "$tools/bin/schemathesis" run "$url/api/v1/openapi.json" --url "$url" \
        --header "Authorization: Bearer $key" --checks "$checks" \
        --phases examples,coverage,fuzzing --max-examples "$examples" --request-timeout 70 \
        --exclude-path-regex '/follow$|/ws$' --warnings off --no-color --seed 1 </dev/null
done
# Whatever was sent to it, it goes on.
kill -0 "$server"
