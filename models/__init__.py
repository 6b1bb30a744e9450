"""Weights and artifacts that ship with howhard; each folder has a model card that says how it was made."""

from importlib.resources import files
from pathlib import Path


def path(name: str) -> Path:
    """Return the directory of a shipped model, for instance "tiny-small" or "router-quickstart".

    Raises FileNotFoundError with the names that ship when there is no such model.
    """
    root = Path(str(files(__name__)))
    if name and (root / name).is_dir() and (root / name).parent == root:
        return root / name
    shipped = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("_"))
    raise FileNotFoundError(f"no shipped model is called {name!r}; shipped: {', '.join(shipped)}")
