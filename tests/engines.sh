#!/usr/bin/env bash
# The tests that need Spark, Daft, Lance or Ray Serve (about 700 MB of packages, and Java for Spark), in an environment
# of their own beside .venv, whose packages they see: `make test` installs that first.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
engines=$(mktemp -d)
trap 'rm -rf "$engines"' EXIT
"$python" -m venv "$engines"
"$python" -c 'import site; print(site.getsitepackages()[0])' >"$("$engines/bin/python" -c 'import site; print(site.getsitepackages()[0])')/beside.pth"
"$engines/bin/pip" install --quiet --disable-pip-version-check 'ray[data,serve]==2.60.0' daft==0.7.26 pyspark==4.3.0 pylance==14.0.2
"$engines/bin/python" -m pytest tests/scclip_rt/integrations tests/scclip_rt/batch/test_inputs.py "$@"
