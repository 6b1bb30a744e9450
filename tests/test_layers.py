"""The layers' direction (training -> router -> strategies), and what importing a layer may load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOOR = {"models": 0, "strategies": 0, "router": 1, "training": 2}
HEAVY = ("torch", "mlflow", "pandas", "sklearn", "scipy", "aiohttp", "pyarrow", "lightgbm", "matplotlib")


def imported_layers(file: Path):
    """The howhard layers that a file imports, with line numbers; imports inside functions count too."""
    depth = len(file.relative_to(ROOT).parts) - 1
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        elif isinstance(node, ast.ImportFrom) and node.level > depth:
            names = [f"howhard.{node.module}"] if node.module else [f"howhard.{a.name}" for a in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "howhard" and len(parts) > 1:
                yield parts[1], node.lineno
            elif parts[0] in FLOOR:
                pytest.fail(f"{file}:{node.lineno} imports the folder {name!r}: write a relative import")


@pytest.mark.parametrize("layer", FLOOR)
def test_no_import_runs_upward(layer):
    for file in (ROOT / layer).rglob("*.py"):
        for other, line in imported_layers(file):
            assert FLOOR[other] <= FLOOR[layer], f"{file}:{line} imports {other} from {layer}"


def test_the_check_sees_an_upward_import(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "strategies").mkdir()
    bad = tmp_path / "strategies" / "bad.py"
    bad.write_text("def f():\n    from ..router import Router\n    from ..training.fit import fit\n")
    assert [layer for layer, _ in imported_layers(bad)] == ["router", "training"]


@pytest.mark.parametrize("layer", ["howhard.router", "howhard.strategies", "howhard.training"])
def test_importing_a_layer_loads_nothing_heavy_and_no_folder_name(layer):
    code = f"import sys, {layer}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert not {name.partition(".")[0] for name in loaded} & set(HEAVY)
    assert not {"router", "strategies", "training", "models"} & set(loaded)


def test_the_command_line_starts_without_anything_heavy():
    code = (
        "import sys; from howhard.training.cli import main\n"
        "code = main(['--help'])\n"
        "print(*sys.modules, file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "quickstart" in done.stdout
    assert not {name.partition(".")[0] for name in done.stderr.split()} & {*HEAVY, "numpy"}
