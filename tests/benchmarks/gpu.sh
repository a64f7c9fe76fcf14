#!/usr/bin/env bash
# Tests and measurements of a CUDA GPU in one go, in some six minutes:
#
#     [PYTHON=python3] [OUT=folder] bash tests/benchmarks/gpu.sh
#
# Into OUT (or a new temporary folder) go gpu.json, which is what `saebook bench --device cuda`
# found, and the output of both. It takes the library as it is here, with torch, triton, numba,
# pandas, pyarrow, safetensors, tqdm and pytest. The exit code is 0 where every test passed.
set -u
cd "$(dirname "$0")/../.." || exit 1
python=${PYTHON:-python3}
out=${OUT:-$(mktemp -d)}
mkdir -p "$out"
export PYTHONPATH="$PWD/lib${PYTHONPATH:+:$PYTHONPATH}"

tests() { # limit in seconds, name of the log, then what pytest is given
  local limit=$1 log=$out/$2
  shift 2
  timeout "$limit" "$python" -m pytest -q --tb=short -p no:cacheprovider "$@" >"$log" 2>&1
  local code=$?
  grep -E '^(FAILED|ERROR)|^E  ' "$log" | cut -c1-200 | head -n 40
  echo "$*: $(tail -n 1 "$log") (exit code $code; 124: out of time)"
  return $code
}

tests 130 gpu_tests.txt -m gpu tests/gpu
failed=$?
# Those of the kernels run on the GPU where there is one.
kernels=()
for file in tests/unit/test_updating.py tests/unit/test_fused.py; do
  [ -f "$file" ] && kernels+=("$file")
done
tests 80 gpu_kernels.txt "${kernels[@]}" || failed=1

timeout 320 "$python" -m saebook bench --device cuda --seconds 230 --out "$out/gpu.json" 2>&1 |
  tee "$out/gpu_bench.txt"
[ "${PIPESTATUS[0]}" -eq 0 ] || failed=1
exit "$failed"
