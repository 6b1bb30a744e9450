"""The README's snippets run as pasted, and the commands that it shows exist with the options it shows."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from howhard.training.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


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
