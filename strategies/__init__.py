"""How compute is spent on one request: backends, verifiers, and the strategies that use them.

    from howhard.strategies import BestOfN, Vote
    from howhard.strategies.backends.local import LocalBackend      # needs PyTorch, so it is not imported here

    arm = BestOfN(n=8, verifier=Vote()).on(LocalBackend("small", "tiny-small", prices=prices))
    result = await arm.run("Use 3, 5 and 7 to make 36.")

Knows nothing of routing. The contracts are in `base.py`; `specs.py` describes all of it as data.
"""

from .acceptance import Acceptance, Agreement, MeanLogprob, VerifierScore, get_acceptance
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
from .cascade import Cascade, CascadeSpec, Stage, StageSpec
from .catalogue import StrategySpec, VerifierSpec
from .chain_of_thought import ChainOfThought, ChainOfThoughtSpec, ThoughtStream
from .confidence import Weighting, get_weighting
from .equivalence import Equivalence, get_equivalence
from .hedging import Hedge
from .reasoning import Markers, Splitter
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
from .verifiers.calibration import fit_isotonic, fit_platt
from .verifiers.certainty import Logprob, LogprobSpec, SelfCertainty, SelfCertaintySpec
from .verifiers.classifier import Classifier, ClassifierSpec
from .verifiers.code import CodeExecution, CodeExecutionSpec
from .verifiers.exact import ExactCheck, ExactCheckSpec
from .verifiers.first_of import FirstOf, FirstOfSpec
from .verifiers.function import FunctionCheck, FunctionCheckSpec
from .verifiers.json_schema import JsonSchemaCheck, JsonSchemaCheckSpec
from .verifiers.judge import Judge, JudgeSettings, JudgeSpec
from .verifiers.prompt_constraints import PromptConstraints, PromptConstraintsSpec
from .verifiers.regex import RegexCheck, RegexCheckSpec
from .verifiers.reward_model import RewardModel, RewardModelSpec
from .verifiers.reward_server import RewardServer, RewardServerSettings, RewardServerSpec
from .verifiers.vote import Vote, VoteSpec

__all__ = [
    "ABMCTS",
    "DVTS",
    "EXTRACTOR",
    "MCTS",
    "ABMCTSSpec",
    "Acceptance",
    "Agreement",
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
    "Cascade",
    "CascadeSpec",
    "ChainOfThought",
    "ChainOfThoughtSpec",
    "Classifier",
    "ClassifierSpec",
    "CodeExecution",
    "CodeExecutionSpec",
    "DVTSSpec",
    "Delta",
    "Equivalence",
    "ExactCheck",
    "ExactCheckSpec",
    "FirstOf",
    "FirstOfSpec",
    "FunctionCheck",
    "FunctionCheckSpec",
    "Generation",
    "Hedge",
    "JsonSchemaCheck",
    "JsonSchemaCheckSpec",
    "Judge",
    "JudgeSettings",
    "JudgeSpec",
    "LocalSpec",
    "Logprob",
    "LogprobSpec",
    "MCTSSpec",
    "Markers",
    "MeanLogprob",
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
    "PromptConstraints",
    "PromptConstraintsSpec",
    "Rebase",
    "RebaseSpec",
    "Refinement",
    "RefinementSpec",
    "RegexCheck",
    "RegexCheckSpec",
    "Request",
    "RewardModel",
    "RewardModelSpec",
    "RewardServer",
    "RewardServerSettings",
    "RewardServerSpec",
    "Sample",
    "SamplingParams",
    "Seen",
    "SelfCertainty",
    "SelfCertaintySpec",
    "SelfConsistency",
    "SelfConsistencySpec",
    "SinglePass",
    "SingleSpec",
    "SingleStream",
    "Splitter",
    "Stage",
    "StageSpec",
    "StopRule",
    "Strategy",
    "StrategyResult",
    "StrategySpec",
    "ThoughtStream",
    "Trace",
    "Tree",
    "TreeSearch",
    "TreeSearchSpec",
    "Usage",
    "VLLMSpec",
    "Verdicts",
    "Verifier",
    "VerifierErrors",
    "VerifierScore",
    "VerifierSpec",
    "Vote",
    "VoteSpec",
    "Weighting",
    "as_messages",
    "build_arms",
    "build_strategy",
    "canonical",
    "extract",
    "fit_isotonic",
    "fit_platt",
    "get_acceptance",
    "get_equivalence",
    "get_stop_rule",
    "get_weighting",
    "open_backend",
    "open_backends",
    "open_verifiers",
    "same",
]
