#!/usr/bin/env bash
# Runs real clients against `scclip serve demo`, each in an environment of its own. Needs network access to a package index.
#
#   tests/clients/run.sh                     all clients
#   tests/clients/run.sh triton kserve       these
#
# PYTHON names the interpreter that has scclip-rt with the extras serve and serve-grpc; CLIENTS a folder that keeps the
# environments between runs.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
python="${PYTHON:-python3}"
folder="${CLIENTS:-$(mktemp -d)}"
image="$here/../../scclip_rt/demo/scene.png"
port="${PORT:-8765}" grpc="${GRPC_PORT:-8766}"
mkdir -p "$folder"

declare -A packages=(
    [triton]="tritonclient[http,grpc]==2.73.0 pillow"
    [kserve]="kserve==0.21.0"
    [labelstudio]="label-studio-sdk==2.1.2"
    [cvat]="cvat-cli==2.80.0 cvat-sdk==2.80.0 $here/../.."
    [xanylabeling]="x-anylabeling-cvhub[cpu]==4.2.1"
    [locust]="locust==2.47.0"
)
declare -A scripts=(
    [triton]=tritonclient_both.py [kserve]=kserve_both.py [labelstudio]=label_studio.py [cvat]=cvat_function.py
    [xanylabeling]=xanylabeling.py
)
clients=("$@")
[[ ${#clients[@]} -gt 0 ]] || clients=(triton kserve labelstudio cvat xanylabeling locust)

PYTHONPATH="$here/../..${PYTHONPATH:+:$PYTHONPATH}" "$python" - "$image" "$folder/expected.npy" <<'PY'
import sys
import numpy as np
from scclip_rt import Segmenter
np.save(sys.argv[2], Segmenter("demo")(sys.argv[1]).labels)
PY
PYTHONPATH="$here/../..${PYTHONPATH:+:$PYTHONPATH}" "$python" -m scclip_rt.cli serve demo \
    --port "$port" --grpc-port "$grpc" --no-access-log &
server=$!
trap 'kill $server' EXIT
for _ in $(seq 120); do
    curl --silent --fail --output /dev/null "http://127.0.0.1:$port/v2/health/ready" && break
    sleep 0.5
done

for client in "${clients[@]}"; do
    environment="$folder/$client"
    if [[ ! -x "$environment/bin/python" ]]; then
        "$python" -m venv "$environment"
        # shellcheck disable=SC2086  # several packages
        "$environment/bin/pip" install --quiet --disable-pip-version-check ${packages[$client]}
    fi
    echo "== $client: ${packages[$client]}"
    if [[ $client == locust ]]; then
        (cd "$folder" && SCCLIP_IMAGE="$image" "$environment/bin/locust" --locustfile "$here/locustfile.py" --headless \
            --users 4 --spawn-rate 4 --run-time 10s --host "http://127.0.0.1:$port" --only-summary)
    else
        # Not beside the scripts: some have the name of what they import.
        (cd "$folder" && "$environment/bin/python" "$here/${scripts[$client]}" \
            "http://127.0.0.1:$port" "127.0.0.1:$grpc" "$image" "$folder/expected.npy")
    fi
done
