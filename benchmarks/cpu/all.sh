#!/usr/bin/env bash
# The CPU benchmarks that documents take tables from, then the tables and plots: 25 to 30 minutes on two quiet cores.
#
#     bash benchmarks/cpu/all.sh [TASK …]      # all, or some of: photo calibration pareto profiles sweeps summary
#
# Bundles and int8 files are made first, in $SCCLIP_BENCH (default: the user's cache), and kept for the next time.
# $SCCLIP_RESULTS is where rows go (default: benchmarks/results), $SCCLIP_ROUNDS replaces the number of rounds.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD:$PWD/export:$PWD/kernels${PYTHONPATH:+:$PYTHONPATH}"
results=${SCCLIP_RESULTS:-benchmarks/results}
model=${SCCLIP_MODEL:-vitb16}
read -r -a tasks <<< "${*:-photo calibration pareto profiles sweeps summary}"
mkdir -p "$results"

measure() { # NAME ROUNDS SCRIPT ARGUMENT…
    local name=$1 rounds=${SCCLIP_ROUNDS:-$2} script=$3
    shift 3
    echo "== $name: $script $*" >&2
    local started=$SECONDS
    python -m "benchmarks.cpu.$script" "$@" --iterations "$rounds" --json "$results/$name.json"
    echo "== $name: $((SECONDS - started)) s" >&2
}

for task in "${tasks[@]}"; do
    case $task in
    photo)
        for queries in 20 150; do
            measure "photo-$queries" 7 photo --model "$model" --queries "$queries"
        done
        ;;
    calibration) measure calibration 9 calibration --model "$model" ;;
    pareto) python -m benchmarks.cpu.pareto --json "$results/pareto.json" ;;
    profiles)
        bundle=$(python -c "import sys; from benchmarks import models; print(models.bundle(sys.argv[1], models.work_folder()))" "$model")
        for precision in fp32 int8; do
            for library in onnxruntime openvino; do
                measure "profile-$precision-$library" 5 profile_ops "$bundle" --precision "$precision" --backend "$library"
            done
        done
        ;;
    sweeps)
        for sweep in queries images windows batch threads; do
            measure "$sweep" 3 sweeps "$sweep" --model "$model"
        done
        # Over a minute an image: memory is the point.
        SCCLIP_ROUNDS=1 measure large 1 sweeps large --model "$model" --warmup 0
        ;;
    summary) python -m benchmarks.tables.summary ;;
    *)
        echo "error: no task '$task'; there are photo calibration pareto profiles sweeps summary" >&2
        exit 2
        ;;
    esac
done
