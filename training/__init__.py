"""Everything offline: collecting outcomes, fitting and judging routers, MLflow, and the `howhard` command.

Needs the extra `train`: pip install 'howhard[train]'. Nothing is imported before it is used.
"""
