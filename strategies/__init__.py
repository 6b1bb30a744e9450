"""How compute is spent on one request: backends, verifiers, and the strategies that use them.

    from howhard.strategies import BestOfN, Vote
    from howhard.strategies.backends.local import LocalBackend      # needs PyTorch, so it is not imported
    here

    arm = BestOfN(n=8, verifier=Vote()).on(LocalBackend("small", "tiny-small", prices=prices))
    result = await arm.run("Use 3, 5 and 7 to make 36.")

Knows nothing of routing. The contracts are in `base.py`; `specs.py` describes all of it as data.
"""

from .answers import EXTRACTOR, canonical, extract, same
from .base import (
    Arm,
    Backend,
    Batch,
    Bindable,
    Budget,
    Candidate,
    Delta,
    Generation,
    Message,
    Meter,
    Prefix,
    Prices,
    Prompt,
    Request,
    Sample,
    SamplingParams,
    Strategy,
    StrategyResult,
    Trace,
    Usage,
    Verdicts,
    Verifier,
    as_messages,
)
from .best_of_n import BestOfN, BestOfNSpec
from .catalogue import StrategySpec, VerifierSpec
from .confidence import Weighting, get_weighting
from .equivalence import Equivalence, get_equivalence
from .refinement import Refinement, RefinementSpec
from .search.ab_mcts import ABMCTS, ABMCTSSpec
from .search.beam import TreeSearch, TreeSearchSpec
from .search.best_first import BestFirst, BestFirstSpec
from .search.dvts import DVTS, DVTSSpec
from .search.mcts import MCTS, MCTSSpec
from .search.particles import ParticleFilter, ParticleFilterSpec
from .search.rebase import Rebase, RebaseSpec
from .search.tree import Tree
from .self_consistency import SelfConsistency, SelfConsistencySpec
from .single import SinglePass, SingleSpec, SingleStream
from .spec import PricesSpec
from .specs import (
    ArmSpec,
    BackendSpec,
    LocalSpec,
    OpenAISpec,
    VLLMSpec,
    build_arms,
    build_strategy,
    open_backend,
    open_backends,
    open_verifiers,
)
from .stopping import Seen, StopRule, get_stop_rule
from .verifier_errors import PastTheOptimum, VerifierErrors
from .verifiers.exact import ExactCheck, ExactCheckSpec
from .verifiers.first_of import FirstOf, FirstOfSpec
from .verifiers.reward_model import RewardModel, RewardModelSpec
from .verifiers.vote import Vote, VoteSpec

__all__ = [
    "ABMCTS",
    "DVTS",
    "EXTRACTOR",
    "MCTS",
    "ABMCTSSpec",
    "Arm",
    "ArmSpec",
    "Backend",
    "BackendSpec",
    "Batch",
    "BestFirst",
    "BestFirstSpec",
    "BestOfN",
    "BestOfNSpec",
    "Bindable",
    "Budget",
    "Candidate",
    "DVTSSpec",
    "Delta",
    "Equivalence",
    "ExactCheck",
    "ExactCheckSpec",
    "FirstOf",
    "FirstOfSpec",
    "Generation",
    "LocalSpec",
    "MCTSSpec",
    "Message",
    "Meter",
    "OpenAISpec",
    "ParticleFilter",
    "ParticleFilterSpec",
    "PastTheOptimum",
    "Prefix",
    "Prices",
    "PricesSpec",
    "Prompt",
    "Rebase",
    "RebaseSpec",
    "Refinement",
    "RefinementSpec",
    "Request",
    "RewardModel",
    "RewardModelSpec",
    "Sample",
    "SamplingParams",
    "Seen",
    "SelfConsistency",
    "SelfConsistencySpec",
    "SinglePass",
    "SingleSpec",
    "SingleStream",
    "StopRule",
    "Strategy",
    "StrategyResult",
    "StrategySpec",
    "Trace",
    "Tree",
    "TreeSearch",
    "TreeSearchSpec",
    "Usage",
    "VLLMSpec",
    "Verdicts",
    "Verifier",
    "VerifierErrors",
    "VerifierSpec",
    "Vote",
    "VoteSpec",
    "Weighting",
    "as_messages",
    "build_arms",
    "build_strategy",
    "canonical",
    "extract",
    "get_equivalence",
    "get_stop_rule",
    "get_weighting",
    "open_backend",
    "open_backends",
    "open_verifiers",
    "same",
]
