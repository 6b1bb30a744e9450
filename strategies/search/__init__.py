"""Tree search over the steps of a solution: one tree, one way to grow it, several rules of choice.

`branch.py` has the words; `engine.py` draws, merges, judges and keeps the budget; `steps.py` says what a step is;
`tree.py` is what comes out, and `picture.py` draws it. Each rule of choice has a file of its own, with its strategy
and its spec: `beam.py`, `dvts.py`, `rebase.py`, `best_first.py`, `particles.py`, `mcts.py`, `ab_mcts.py`.
"""
