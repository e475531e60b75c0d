#!/usr/bin/env bash
# Installs the viewer Spark (World Labs, MIT) and three.js, for the tests that look at our files of splats in it. Needs npm.
#
#   tests/outside/spark.sh FOLDER
set -euo pipefail
folder="${1:?usage: tests/outside/spark.sh FOLDER}"
mkdir -p "$folder"
npm install --prefix "$folder" --no-audit --no-fund --silent "@sparkjsdev/spark@2.2.0" "three@0.180.0"
modules="$(cd "$folder" && pwd)/node_modules"
test -f "$modules/@sparkjsdev/spark/dist/spark.module.js"
echo "export HANDFUL_SPARK=$modules"
