"""The README's snippets run as pasted, and the commands that it shows exist with the options it shows."""

import asyncio
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from howhard.strategies.catalogue import STRATEGIES, VERIFIERS
from howhard.strategies.spec import Parts
from howhard.strategies.testing import CONTRACT, ScriptedBackend, Subject
from howhard.training.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "strategies" / "README.md").read_text(encoding="utf-8")


def blocks(language, text=README):
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def howhard_commands():
    """Every `howhard ...` line of the shell blocks, continuation lines joined."""
    for block in blocks("bash"):
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.split("&&"):
                words = shlex.split(part, comments=True)
                if words and words[0].rpartition("/")[2] == "howhard":
                    yield words[1:]


def test_there_are_snippets_to_run():
    assert blocks("python")
    assert {words[0] for words in howhard_commands()} >= {"quickstart", "collect", "train", "evaluate", "route"}


@pytest.mark.parametrize("snippet", blocks("python"), ids=lambda s: s.strip().splitlines()[-1][:40])
def test_a_python_snippet_runs_as_pasted(snippet):
    done = subprocess.run([sys.executable, "-c", snippet], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", list(howhard_commands()), ids=" ".join)
def test_a_shown_command_exists_with_its_options(words, capsys):
    assert main([words[0], "--help"]) == 0
    known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    shown = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert shown <= known


def test_the_changelog_begins_with_the_packages_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)[1] == version


def test_the_guide_to_the_strategies_runs_from_top_to_bottom():
    program = "\n".join(blocks("python", GUIDE))
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    asked = program.count("\nask(") + program.count("= ask(")
    assert len(re.findall(r"^[\w.]+: .* tokens; ", done.stdout, flags=re.MULTILINE)) == asked


def test_the_guide_names_every_strategy_and_verifier():
    for spec in (*STRATEGIES, *VERIFIERS):
        assert re.search(rf"\b{spec.__name__.removesuffix('Spec')}\b", GUIDE), f"{spec.__name__} is not in the guide"


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
def test_the_guides_own_strategy_of_few_lines_keeps_the_contract(check):
    [shown] = [block for block in blocks("python", GUIDE) if "class Shorter(" in block]
    assert len(shown.splitlines()) < 60
    names = {}
    exec(shown.rpartition("\n\nask(")[0], names)  # the guide's own text
    strategy = names["ShorterSpec"](max_tokens=40).build(Parts(seed=3))
    backend = ScriptedBackend(lambda prompt: [f"{prompt}\n{i}{i + 1}\nAnswer: {i % 3}" for i in range(7)])

    async def served():
        return backend.served.completion_tokens

    async def running():
        return backend.running

    def pause():
        backend.held = asyncio.Event()

    prompts = tuple(f"{i} + {i + 1}" for i in range(8))
    subject = Subject(
        strategy=strategy,
        backend=backend,
        prompts=prompts,
        served=served,
        running=running,
        pause=pause,
        resume=lambda: backend.held.set(),
    )
    asyncio.run(check(subject))
