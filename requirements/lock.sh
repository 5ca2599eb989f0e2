#!/bin/sh
# Writes the hash-pinned closures of pyproject.toml; `make lock` runs it.  $1: the uv to use.
set -eu
cd "$(dirname "$0")"
compile() {
    out=$1
    shift
    "$UV" pip compile ../pyproject.toml --universal --python-version 3.11 --generate-hashes --quiet \
        --custom-compile-command "make lock" --output-file "$out" "$@"
}
UV=$1
compile dev.txt --extra local --extra dev --group ../pyproject.toml:build
compile local.txt --extra local --group ../pyproject.toml:build --constraint dev.txt --no-annotate
"$UV" pip compile --group ../pyproject.toml:build --universal --python-version 3.11 --generate-hashes --quiet \
    --custom-compile-command "make lock" --output-file build.txt --constraint dev.txt --no-annotate
compile base.txt --constraint dev.txt --no-annotate
