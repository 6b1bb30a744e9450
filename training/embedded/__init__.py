"""How the embedded models in `models/` are made: `python -m howhard.training.embedded`."""
