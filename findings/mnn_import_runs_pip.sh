#!/usr/bin/env bash
# MNN 3.6.1: importing its converter's Python module, MNN.tools.mnnconvert, runs `pip install`, by whatever `pip` is first on
# PATH: an import changes an environment, which need not even be the one that imports.
# Seen, with a `pip` on PATH that only notes what it is told: `install -U aliyun-log-python-sdk`, twice.
# The compiled converter (`_tools`) does the same work and installs nothing.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check MNN==3.6.1 numpy==2.4.6
mkdir "$folder/bin"
printf '#!/bin/sh\necho "$@" >>"%s/told"\nexit 0\n' "$folder" >"$folder/bin/pip"
chmod +x "$folder/bin/pip"
cd "$folder"
PATH="$folder/bin:$PATH" venv/bin/python -c 'import MNN, _tools'
test ! -e told
PATH="$folder/bin:$PATH" venv/bin/python -c 'import MNN.tools.mnnconvert' >/dev/null 2>&1 || true
cat told
grep -q '^install ' told
