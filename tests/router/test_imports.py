import subprocess
import sys

HEAVY = ["torch", "mlflow", "pandas", "sklearn", "scipy", "aiohttp", "pyarrow", "lightgbm", "matplotlib"]
HEAVY += ["transformers", "tokenizers", "safetensors", "typer"]


def run(code: str) -> str:
    """Run code in a fresh interpreter, away from this process's imports."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_router_imports_nothing_heavy_and_no_foreign_name():
    loaded = run("import sys, howhard.router; print(*sys.modules)").split()
    assert [m for m in HEAVY if m in loaded] == []
    for top in ("router", "strategies", "training", "models"):
        assert top not in loaded
    assert not any(m.startswith("howhard.training") for m in loaded)


def test_loading_a_directory_and_deciding_imports_nothing_heavy_either(router_dir):
    code = (
        "import sys; from howhard.router import Router;"
        f"d = Router.load({str(router_dir)!r}).decide('add 4 and 2'); print(*sys.modules, d.arm)"
    )
    *loaded, arm = run(code).split()
    assert arm == "small/single"
    assert [m for m in HEAVY if m in loaded] == []


def test_what_the_front_door_exports_is_there():
    import howhard.router

    for name in howhard.router.__all__:
        assert getattr(howhard.router, name) is not None
