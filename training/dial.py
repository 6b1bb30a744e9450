"""Make the number of samples a dial: beside each best-of-N and vote arm of a log, the same one at other N.

The samples say at no cost what those arms would have done (derive.py), so that a router may choose among 2, 4, 8, 16,
... samples where the log was collected for one or two of them. Only N changes: backend, verifier and all other
settings are the arm's own. Arms that must be run (search, early stopping) stay as they are. Dialled arms were never
timed: an objective with a deadline or a price of time does not choose them.

More arms are not always better. On 2,200 prompts of the embedded models, 17 arms instead of 9 gave +.041, +.036, +.019
and +.003 of utility at lambda .03, .1, .3 and 1 (s.e. .003) on random prompts held out. On whole families held out,
where the router keeps to the best fixed arm of training, that arm draws more samples with the dial: +.037, -.026,
-.082 and 0. So it is a choice, off where nothing is said.
"""

from collections.abc import Mapping

import msgspec
import numpy as np
import pandas as pd

from ..strategies import ArmSpec, BestOfNSpec
from ..strategies.errors import InputError
from .derive import SampleSet, is_derivable

ENOUGH = 0.9
"""Share of the prompts that must have as many samples as an arm draws."""


def dialled(specs: Mapping[str, ArmSpec], n_samples: Mapping[str, int]) -> dict[str, ArmSpec]:
    """Arms by name: those of `specs`, and after them their like at 2, 4, 8, ... samples and at all that there are.

    n_samples : arm -> samples of its backend and settings that a prompt has (`samples_per_prompt`); an arm that is not
                named stays at its N.

    A name that is taken already is not given twice: two votes of one backend that differ in what counts as equal share
    theirs, and only the first is dialled to it.
    """
    arms = dict(specs)
    for name, spec in specs.items():
        if isinstance(spec.strategy, BestOfNSpec) and is_derivable(spec):
            most = n_samples.get(name, 1)
            for n in sorted({*(2**i for i in range(1, most.bit_length())), most} - {1}):
                other = ArmSpec(backend=spec.backend, strategy=msgspec.structs.replace(spec.strategy, n=n))
                arms.setdefault(other.name, other)
    return arms


def samples_per_prompt(samples: pd.DataFrame, specs: Mapping[str, ArmSpec]) -> dict[str, int]:
    """How many collected samples of its backend and settings a share of ENOUGH of the prompts has, by derivable arm.

    Raises InputError when there is no best-of-N or vote arm to dial, and TableError as SampleSet does.
    """
    arms = {n: s for n, s in specs.items() if isinstance(s.strategy, BestOfNSpec) and is_derivable(s)}
    if not arms:
        raise InputError(
            "there is nothing to dial: no arm of the log is a best-of-N or a vote that follows from its samples. "
            "Train without dial"
        )
    sampled = SampleSet(samples)
    found = {}
    for name, spec in arms.items():
        counts = np.concatenate([np.full(len(block.prompt_ids), block.m) for block in sampled.blocks(spec)])
        found[name] = int(np.quantile(counts, 1.0 - ENOUGH, method="lower"))
    return found
