"""The strategies and verifiers that configurations and the command line know: one import each, nothing else.

A new strategy is a file with its class and its spec (a StrategyFields with defaults for all settings), and one line
here. From then on TOML files, `howhard run`, `howhard compare` and the contract suite know it.
"""

import functools
import operator
from typing import TYPE_CHECKING

from .best_of_n import BestOfNSpec as BestOfNSpec
from .refinement import RefinementSpec as RefinementSpec
from .search.ab_mcts import ABMCTSSpec as ABMCTSSpec
from .search.beam import TreeSearchSpec as TreeSearchSpec
from .search.best_first import BestFirstSpec as BestFirstSpec
from .search.dvts import DVTSSpec as DVTSSpec
from .search.mcts import MCTSSpec as MCTSSpec
from .search.particles import ParticleFilterSpec as ParticleFilterSpec
from .search.rebase import RebaseSpec as RebaseSpec
from .self_consistency import SelfConsistencySpec as SelfConsistencySpec
from .single import SingleSpec as SingleSpec
from .spec import StrategyFields, VerifierFields
from .verifiers.exact import ExactCheckSpec as ExactCheckSpec
from .verifiers.first_of import FirstOfSpec as FirstOfSpec
from .verifiers.reward_model import RewardModelSpec as RewardModelSpec
from .verifiers.vote import VoteSpec as VoteSpec


def _imported(base: type) -> tuple[type, ...]:
    return tuple(v for v in globals().values() if isinstance(v, type) and issubclass(v, base) and v is not base)


STRATEGIES: tuple[type[StrategyFields], ...] = _imported(StrategyFields)
VERIFIERS: tuple[type[VerifierFields], ...] = _imported(VerifierFields)

if TYPE_CHECKING:
    StrategySpec = StrategyFields
    VerifierSpec = VerifierFields
else:
    StrategySpec = functools.reduce(operator.or_, STRATEGIES)
    VerifierSpec = functools.reduce(operator.or_, VERIFIERS)
