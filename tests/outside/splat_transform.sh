#!/usr/bin/env bash
# Installs PlayCanvas' splat-transform, for the tests that ask it what our files of splats mean. Needs node 20 and npm.
#
#   tests/outside/splat_transform.sh FOLDER
set -euo pipefail
folder="${1:?usage: tests/outside/splat_transform.sh FOLDER}"
mkdir -p "$folder"
npm install --prefix "$folder" --no-audit --no-fund --silent "@playcanvas/splat-transform@3.7.0"
program="$(cd "$folder" && pwd)/node_modules/.bin/splat-transform"
"$program" --version >/dev/null
echo "export HANDFUL_SPLAT_TRANSFORM=$program"
