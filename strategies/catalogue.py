"""The strategies and verifiers that configurations and the command line know: one import each, nothing else.

A new strategy is a file with its class and its spec (a StrategyFields with defaults for all settings), and one line
here. From then on TOML files, `howhard run`, `howhard compare` and the contract suite know it.
"""

import functools
import operator
from typing import TYPE_CHECKING

from .best_of_n import BestOfNSpec as BestOfNSpec
from .cascade import CascadeSpec as CascadeSpec
from .chain_of_thought import ChainOfThoughtSpec as ChainOfThoughtSpec
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
from .verifiers.certainty import LogprobSpec as LogprobSpec
from .verifiers.certainty import SelfCertaintySpec as SelfCertaintySpec
from .verifiers.classifier import ClassifierSpec as ClassifierSpec
from .verifiers.code import CodeExecutionSpec as CodeExecutionSpec
from .verifiers.exact import ExactCheckSpec as ExactCheckSpec
from .verifiers.first_of import FirstOfSpec as FirstOfSpec
from .verifiers.function import FunctionCheckSpec as FunctionCheckSpec
from .verifiers.json_schema import JsonSchemaCheckSpec as JsonSchemaCheckSpec
from .verifiers.judge import JudgeSpec as JudgeSpec
from .verifiers.prompt_constraints import PromptConstraintsSpec as PromptConstraintsSpec
from .verifiers.regex import RegexCheckSpec as RegexCheckSpec
from .verifiers.reward_model import RewardModelSpec as RewardModelSpec
from .verifiers.reward_server import RewardServerSpec as RewardServerSpec
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
