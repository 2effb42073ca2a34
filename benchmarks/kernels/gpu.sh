#!/usr/bin/env bash
# Every test that needs a GPU, and the kernels: every op, other libraries; in one call of about ten minutes.
#
#   bash benchmarks/kernels/gpu.sh OUT [WHEELS]
#
# alignkit and pytest are installed; WHEELS holds the peers (see run.py). What fails does not stop the rest.
set -uo pipefail
cd "$(dirname "$0")/../.."
out=$1
mkdir -p "$out"
flagship=(fused_linear_policy_loss linear_logprob token_logprob)

nvidia-smi > "$out/gpu.txt" 2>&1
python -m pytest -q -m gpu tests 2>&1 | tee "$out/tests.txt" | tail -n 15
alignkit bench --json "$out/bench.json" --plot "$out/bench.png"
alignkit bench "${flagship[@]}" --mask 0.5 --json "$out/bench_masked.json"
alignkit bench "${flagship[@]}" --shape V=151936 --shape T=32768 --impl triton --json "$out/bench_large.json"
for mask in 0 0.5; do
  python benchmarks/kernels/run.py --mask "$mask" ${2:+--wheels "$2"} --json "$out/peers_$mask.json" --plot "$out/peers_$mask.png"
done
