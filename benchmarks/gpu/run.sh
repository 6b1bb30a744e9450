#!/usr/bin/env bash
# Run what needs a vLLM server against a real one, on a machine with a GPU: the integration tests, then the benchmark.
#
#   benchmarks/gpu/run.sh [MODEL]             starts `vllm serve MODEL` (default: the shipped models/tiny-large) and ends it
#   HOWHARD_VLLM_URL=http://host:8000 benchmarks/gpu/run.sh          uses a server that runs already
#
# HOWHARD_PYTHON  the Python that has howhard (default .venv/bin/python)
# VLLM            the vllm command, of another environment if need be (default: vllm)
# PORT            of the server that is started (default 8000)
# OUT             where log and results go (default: a new folder under /tmp)
set -euo pipefail
cd "$(dirname "$0")/../.."

python=${HOWHARD_PYTHON:-.venv/bin/python}
out=${OUT:-$(mktemp -d /tmp/howhard-gpu.XXXXXX)}
mkdir -p "$out"

if [[ -z ${HOWHARD_VLLM_URL:-} ]]; then
    model=${1:-models/tiny-large}
    port=${PORT:-8000}
    setsid "${VLLM:-vllm}" serve "$model" --served-model-name howhard-gpu --host 127.0.0.1 --port "$port" \
        --generation-config vllm --enable-prefix-caching --enable-prompt-tokens-details >"$out/server.log" 2>&1 &
    server=$!
    trap 'kill -TERM -- "-$server" 2>/dev/null || true' EXIT
    export HOWHARD_VLLM_URL=http://127.0.0.1:$port
    echo "starting vLLM on $model; its log is $out/server.log"
    for ((i = 0; i < 600; i++)); do
        curl -sf -m 5 "$HOWHARD_VLLM_URL/health" >/dev/null && break
        kill -0 "$server" 2>/dev/null || { tail -25 "$out/server.log"; echo "vLLM ended while starting" >&2; exit 1; }
        sleep 1
    done
    curl -sf -m 5 "$HOWHARD_VLLM_URL/health" >/dev/null || { echo "vLLM did not answer within 10 minutes" >&2; exit 1; }
fi

command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,memory.total --format=csv,noheader | tee "$out/gpu.txt"
"$python" -m pip freeze >"$out/packages.txt" 2>/dev/null || true
failed=0
"$(dirname "$python")/pytest" tests/integration -m vllm -q 2>&1 | tee "$out/tests.log" || failed=1
"$python" benchmarks/gpu/vllm_backend.py | tee "$out/vllm_backend.log"
tail -1 "$out/vllm_backend.log" >"$out/vllm_backend.json"
echo "results are in $out"
exit "$failed"
