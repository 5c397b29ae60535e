#!/bin/sh
# Write the lock files anew: exact versions with hashes for every platform, and no address of a registry.
set -eu
cd "$(dirname "$0")/.."
lock() {
    out=$1
    shift
    .venv/bin/uv pip compile pyproject.toml "$@" --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-header --no-annotate --quiet -o "requirements/$out"
}
lock dev.lock --group dev
lock run.lock --group demo -c requirements/dev.lock
grep -A 200 '^uv==' requirements/dev.lock | awk 'NR > 1 && /^[a-z]/ { exit } { print }' > requirements/uv.lock
for wanted in examples/clients/*/requirements.in bench/rival/requirements.in; do
    .venv/bin/uv pip compile "$wanted" --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-header --no-annotate --quiet -o "${wanted%.in}.lock"
done
