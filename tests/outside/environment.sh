#!/usr/bin/env bash
# Makes an environment in which nerfstudio's own data parser runs, for the tests that ask it what our files mean.
#
#   tests/outside/environment.sh ENV [PYTHON]      PYTHON: one that has handful installed (default: .venv/bin/python)
#
# nerfstudio pins old versions of viser, gsplat and OpenCV, so it never goes into our own environment. Its parser needs little of that:
# ENV borrows torch and the rest from PYTHON's environment and adds four small packages, which takes seconds.
set -euo pipefail
env="${1:?usage: tests/outside/environment.sh ENV [PYTHON]}"
python="${2:-$(dirname "$0")/../../.venv/bin/python}"
"$python" -m venv "$env"
lend="$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')"
own="$("$env/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')"
echo "$lend" > "$own/borrowed.pth"   # comes after ENV's own packages on the path
"$env/bin/python" -m pip install -q --no-deps --ignore-installed "nerfstudio==1.1.5" "tensorboard>=2.15" "absl-py>=2" "protobuf>=5"
"$env/bin/python" -c "import nerfstudio.data.dataparsers.nerfstudio_dataparser"
echo "export HANDFUL_NERFSTUDIO_PYTHON=$(cd "$env" && pwd)/bin/python"
