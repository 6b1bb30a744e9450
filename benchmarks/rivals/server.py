"""A vLLM server of its own for a comparison, its counters, and the wait until it is idle.

The environment is the one of the integration tests (tests/integration/vllm_env.py). Counters are the server's word:
what an engine drew is read before and after a run, with nothing running.
"""

import contextlib
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
COUNTERS = {
    "generated": "vllm:generation_tokens_total",
    "prompt": "vllm:prompt_tokens_total",
    "cached": "vllm:prompt_tokens_cached_total",
    "queried": "vllm:prefix_cache_queries_total",
    "hit": "vllm:prefix_cache_hits_total",
    "running": "vllm:num_requests_running",
    "waiting": "vllm:num_requests_waiting",
}
TINY = "--dtype float32 --max-num-batched-tokens 32768 --enforce-eager"
"""float32 as the models compute; room for every prompt in one step (see tests/integration/conftest.py)."""
LARGE = "--dtype bfloat16 --max-model-len 2048 --max-num-batched-tokens 32768 --enforce-eager"


def environment() -> Path:
    """The Python of the vLLM environment, made if it isn't there."""
    where = REPOSITORY / "tests/integration/vllm_env.py"
    spec = importlib.util.spec_from_file_location("howhard_vllm_env", where)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ensure()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def running(command: list[str], log: Path, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own, ended with all that it started."""
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=env, start_new_session=True)
    try:
        yield process
    finally:
        for sign in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, sign)
                process.wait(20)


def wait(url: str, process: subprocess.Popen[bytes], log: Path, seconds: float = 600) -> None:
    """Wait until a server answers. Raises RuntimeError with the end of its log."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise RuntimeError(f"{url} does not answer; the end of {log}:\n" + log.read_text(errors="replace")[-3000:])


@contextlib.contextmanager
def serve(
    model: Path, name: str, log: Path, *, flags: str = TINY, threads: int = 1, kv_gb: int = 1, seqs: int = 256
) -> Iterator[str]:
    """Serve a model; yields the address, with /v1."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a run that is ended ends its servers, too
    python, port = environment(), free_port()
    common = (
        f"--model {model} --served-model-name {name} --host 127.0.0.1 --port {port} --max-num-seqs {seqs} "
        "--gpu-memory-utilization 0.4 --generation-config vllm --enable-prefix-caching --block-size 32 "
        "--enable-prompt-tokens-details --uvicorn-log-level warning"
    )
    env = os.environ | {
        "VLLM_CPU_KVCACHE_SPACE": str(kv_gb),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind" if threads == 1 else f"0-{threads - 1}",
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        "OMP_NUM_THREADS": str(threads),
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_SERVER_DEV_MODE": "1",  # for /reset_prefix_cache
        "VLLM_HOST_IP": "127.0.0.1",
        "HF_HUB_OFFLINE": "1",
    }
    openmp = python.parents[1] / "lib/libiomp5.so"
    if openmp.is_file():
        env["LD_PRELOAD"] = str(openmp)
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", *common.split(), *flags.split()]
    with running(command, log, env) as process:
        wait(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}/v1"


def counters(url: str) -> dict[str, float]:
    """The server's counters, and `requests`: the generate calls that it was sent."""
    with urllib.request.urlopen(url.removesuffix("/v1") + "/metrics", timeout=30) as answer:
        text = answer.read().decode(errors="replace")
    totals: dict[str, float] = {}
    requests = 0.0
    for name, labels, value in re.findall(r"^([\w:]+)(\{.*\})? (\S+)$", text, re.MULTILINE):
        totals[name] = totals.get(name, 0.0) + float(value)
        if name == "http_requests_total" and "completions" in labels:
            requests += float(value)
    return {ours: totals.get(theirs, 0.0) for ours, theirs in COUNTERS.items()} | {"requests": requests}


def idle(url: str, seconds: float = 120) -> dict[str, float]:
    """Wait until nothing runs, then read the counters."""
    until = time.monotonic() + seconds
    last: dict[str, float] = {}
    while time.monotonic() < until:
        now = counters(url)
        if now["running"] == now["waiting"] == 0 and now == last:
            return now
        last = now
        time.sleep(0.3)
    raise RuntimeError(f"the server did not come to rest within {seconds} s: {last}")


def forget(url: str) -> None:
    """Empty the prefix cache, so that no run finds what another one left."""
    post = urllib.request.Request(url.removesuffix("/v1") + "/reset_prefix_cache", method="POST")
    with urllib.request.urlopen(post, timeout=30):
        pass


def get_json(url: str) -> dict:
    """GET, and read the JSON."""
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)
