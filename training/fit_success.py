"""Fit the distribution of the per-sample success p (howhard.router.success), and score it against draws.

What is fitted is how far p of a prompt strays from the mean that is predicted of it: the concentration of a Beta
distribution, by maximum likelihood of the counts of right samples that were logged. Which best-of-N arms then follow
from their single arms is decided on the same out-of-fold predictions: those whose formula errs no more than what was
predicted of them directly.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import betaln, gammaln, psi

from ..router.success import LOG_CONCENTRATION, MOST_LOG_ODDS, MOST_SAMPLES, SuccessModel
from ..strategies import ArmSpec, BestOfNSpec, ExactCheckSpec, FirstOfSpec, SingleSpec, VerifierSpec
from ..strategies.errors import InputError, nearest
from .matrix import OutcomeMatrix

FEWEST_PROMPTS = 20
"""Prompts with two draws or more, below which no concentration is fitted."""
PULL = 0.02
"""Of a penalty on the coefficients, per draw of FEWEST_PROMPTS prompts: keeps the curve flat where data say nothing."""
BINS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """Best of n samples of a single arm under a sound verifier."""

    single: str
    n: int


def sound_chains(
    arms: Sequence[str], specs: Mapping[str, ArmSpec | None], verifiers: Mapping[str, VerifierSpec]
) -> dict[str, Chain]:
    """Which arms draw n samples as a single arm does, and have a sound verifier choose: arm -> Chain.

    A verifier is sound when its spec says so (`sound`), when it is an exact check, or when all that it hands on to are
    sound. Sampling settings must be those of the single arm; stopping at a proof changes what is spent, not what is
    right.
    """
    singles = {
        (spec.backend, _sampling(spec)): name
        for name in arms
        if (spec := specs.get(name)) is not None and isinstance(spec.strategy, SingleSpec)
    }
    found = {}
    for name in arms:
        spec = specs.get(name)
        if spec is None or not isinstance(spec.strategy, BestOfNSpec):
            continue
        strategy = spec.strategy
        single = singles.get((spec.backend, _sampling(spec)))
        chooses = strategy.selection == "best" and strategy.stop in ("none", "accept", "accept:1")
        if single is not None and chooses and is_sound(strategy.verifier, verifiers):
            found[name] = Chain(single=single, n=strategy.n)
    return found


def is_sound(name: str, verifiers: Mapping[str, VerifierSpec]) -> bool:
    """Whether a verifier accepts right answers only, by its spec. A custom one that doesn't say counts as not sound."""
    spec = verifiers.get(name)
    if isinstance(spec, FirstOfSpec):
        return all(is_sound(inner, verifiers) for inner in spec.verifiers)
    return isinstance(spec, ExactCheckSpec) or bool(getattr(spec, "sound", False))


def _sampling(spec: ArmSpec) -> tuple[float, float, int]:
    return spec.strategy.temperature, spec.strategy.top_p, spec.strategy.max_tokens


def fit_success(
    matrix: OutcomeMatrix,
    quality: np.ndarray,
    *,
    specs: Mapping[str, ArmSpec | None] | None = None,
    verifiers: Mapping[str, VerifierSpec] | None = None,
    chains: Mapping[str, Chain] | None = None,
) -> SuccessModel | None:
    """Fit the distribution of p to the counts behind the single arms' qualities.

    quality : (n, a), predicted of the prompts by models that have not seen them, in [0, 1].
    chains  : arm -> Chain, for tables whose arms have no specs; None = `sound_chains`. Say it only where the verifier
              is sound.

    Returns None where no best-of-N arm has a sound verifier, no single arm of one has two draws on FEWEST_PROMPTS
    prompts, or every formula errs more than the direct prediction. Raises InputError for a chain of unknown arms.
    """
    if chains is None:
        chains = sound_chains(matrix.arms, specs or {}, verifiers or {})
    for arm in (*chains, *(chain.single for chain in chains.values())):
        if arm not in matrix.arms:
            raise InputError(f"chains names arm {arm!r}{nearest(arm, matrix.arms)}")
    column = {arm: i for i, arm in enumerate(matrix.arms)}
    fitted = {}
    for single in sorted({chain.single for chain in chains.values()}):
        right, wrong, mean = _counts(matrix, column[single], quality)
        if len(mean) >= FEWEST_PROMPTS:
            fitted[single] = concentration(right, wrong, mean)
    known = [
        (arm, chain) for arm, chain in sorted(chains.items()) if chain.single in fitted and chain.n <= MOST_SAMPLES
    ]
    if not known:
        return None
    model = _model(column, fitted, known)
    formula = model.apply(quality)
    kept = [(arm, chain) for arm, chain in known if _errs_no_more(formula, quality, matrix.quality, column[arm])]
    return _model(column, fitted, kept) if kept else None


def _counts(matrix: OutcomeMatrix, column: int, quality: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Right and wrong draws of the prompts with two draws or more, and the mean predicted of them, (m,) each.

    The quality of a graded draw may lie between 0 and 1: it counts as that share of a right one.
    """
    draws = matrix.draws[:, column]
    some = ~np.isnan(matrix.quality[:, column]) & (draws >= 2)
    right = matrix.quality[some, column] * draws[some]
    return right, draws[some] - right, quality[some, column]


def concentration(right: np.ndarray, wrong: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Coefficients (3,) of the log concentration in the log-odds of the mean, by maximum beta-binomial likelihood.

    sum log B(right + a, wrong + b) - log B(a, b),   a = mean * s, b = (1 - mean) * s, s = exp(c0 + c1 z + c2 z^2)
    """
    least = 1.0 / (1.0 + np.exp(MOST_LOG_ODDS))
    mean = np.clip(mean, least, 1.0 - least)
    z = np.log(mean / (1.0 - mean))
    powers = np.stack([np.ones_like(z), z, z**2], axis=1)
    pull = PULL * FEWEST_PROMPTS * np.array([0.1, 1.0, 4.0])

    def loss(c: np.ndarray) -> tuple[float, np.ndarray]:
        log_size = powers @ c
        size = np.exp(np.clip(log_size, *LOG_CONCENTRATION))
        a, b = mean * size, (1.0 - mean) * size
        draws = right + wrong
        value = (betaln(right + a, wrong + b) - betaln(a, b)).sum()
        slope = a * (psi(right + a) - psi(a)) + b * (psi(wrong + b) - psi(b)) - size * (psi(draws + size) - psi(size))
        slope = np.where((log_size > LOG_CONCENTRATION[0]) & (log_size < LOG_CONCENTRATION[1]), slope, 0.0)
        return pull @ c**2 - value, 2 * pull * c - slope @ powers

    return minimize(loss, np.array([1.0, 0.0, 0.0]), jac=True, method="L-BFGS-B").x


def _model(
    column: Mapping[str, int], fitted: Mapping[str, np.ndarray], chains: Sequence[tuple[str, Chain]]
) -> SuccessModel:
    singles = sorted(fitted)
    return SuccessModel(
        singles=np.array([column[s] for s in singles], dtype=np.intp),
        coefficients=np.array([fitted[s] for s in singles]).reshape(-1, 3),
        chains=np.array([column[arm] for arm, _ in chains], dtype=np.intp),
        draws_from=np.array([singles.index(chain.single) for _, chain in chains], dtype=np.intp),
        samples=np.array([float(chain.n) for _, chain in chains]),
    )


def _errs_no_more(formula: np.ndarray, direct: np.ndarray, truth: np.ndarray, column: int) -> bool:
    """Whether the formula's squared error is no larger than the direct prediction's, on the prompts that have both."""
    error = (formula[:, column] - truth[:, column]) ** 2 - (direct[:, column] - truth[:, column]) ** 2
    return not np.isnan(error).all() and float(np.nanmean(error)) <= 0.0


# ── scores ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class AtSamples:
    """Best of `n` samples under a sound verifier: means over prompts, and Brier scores against what the draws say.

    predicted : by the distribution of p. plug_in : 1 - (1 - mean)^n, as if p were the mean on every prompt.
    observed  : from the draws, without bias (pass@k).
    """

    n: int
    predicted: float
    plug_in: float
    observed: float
    brier: float
    brier_plug_in: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SuccessScores:
    """How well the distribution of one single arm's p foretells its draws.

    log_score, log_score_plug_in : mean over prompts of log chance of the draws / their number; nearer 0 is better. The
                  plug-in says that p is the mean.
    pit         : share of the prompts' counts in each tenth of their predicted distribution (non-randomised probability
                  integral transform): .1 each where it is calibrated.
    pit_error   : largest distance between the transform's distribution and the even one.
    """

    arm: str
    n_prompts: int
    log_score: float
    log_score_plug_in: float
    pit: tuple[float, ...]
    pit_error: float
    at: tuple[AtSamples, ...]

    def text(self) -> str:
        """The same in a sentence."""
        most = self.at[-1]
        return (
            f"Chance of success of {self.arm}, as a distribution, on {self.n_prompts} held-out prompts: log score "
            f"{self.log_score:.3f} a draw ({self.log_score_plug_in:.3f} if it were its mean), off by at most "
            f"{self.pit_error:.3f} anywhere. The best of {most.n} is right on {most.observed:.3f} of the prompts, "
            f"predicted {most.predicted:.3f} (from the mean {most.plug_in:.3f})."
        )


def success_scores(model: SuccessModel, matrix: OutcomeMatrix, quality: np.ndarray) -> tuple[SuccessScores, ...]:
    """Score the distribution of every single arm that has prompts with two draws or more.

    quality : (n, a), predicted of prompts that neither the predictor nor the model has seen.

    Qualities between 0 and 1 of single draws are counted in whole right ones, rounded.
    Source of the transform for counts: Czado, Gneiting and Held 2009, "Predictive Model Assessment for Count Data".
    """
    found = []
    every_a, every_b = model.beta(quality)
    for i, column in enumerate(model.singles.tolist()):
        draws = np.rint(np.nan_to_num(matrix.draws[:, column]))
        some = ~np.isnan(matrix.quality[:, column]) & (draws >= 2)
        if not some.any():
            continue
        n = draws[some]
        right = np.clip(np.rint(matrix.quality[some, column] * n), 0, n)
        a, b = every_a[some, i], every_b[some, i]
        mean = a / (a + b)
        plug_in = right * np.log(mean) + (n - right) * np.log1p(-mean)
        log_score = betaln(right + a, n - right + b) - betaln(a, b)
        shares = _transform(right, n, a, b)
        found.append(
            SuccessScores(
                arm=matrix.arms[column],
                n_prompts=int(some.sum()),
                log_score=float((log_score / n).mean()),
                log_score_plug_in=float((plug_in / n).mean()),
                pit=tuple(np.diff(shares).tolist()),
                pit_error=float(np.abs(shares - np.linspace(0, 1, BINS + 1)).max()),
                at=tuple(_at(model, quality[some], i, mean, right, n)),
            )
        )
    return tuple(found)


def _at(
    model: SuccessModel, quality: np.ndarray, single: int, mean: np.ndarray, right: np.ndarray, n: np.ndarray
) -> list[AtSamples]:
    found = []
    k = 1
    while k <= n.max():
        enough = n >= k
        r, m = right[enough], n[enough]
        lost = gammaln(m - r + 1) - gammaln(np.maximum(m - r - k, 0) + 1) - gammaln(m + 1) + gammaln(m - k + 1)
        observed = 1.0 - np.where(m - r >= k, np.exp(lost), 0.0)
        predicted = model.best_of(quality[enough], k)[:, single]
        plug_in = 1.0 - (1.0 - mean[enough]) ** k
        # Against a right or wrong outcome of which only the chance is known: (f - o)^2 + o (1 - o).
        spread = observed * (1.0 - observed)
        found.append(
            AtSamples(
                n=k,
                predicted=float(predicted.mean()),
                plug_in=float(plug_in.mean()),
                observed=float(observed.mean()),
                brier=float(((predicted - observed) ** 2 + spread).mean()),
                brier_plug_in=float(((plug_in - observed) ** 2 + spread).mean()),
            )
        )
        k *= 2
    return found


def _transform(right: np.ndarray, n: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean distribution function of the non-randomised probability integral transform at 0, .1, ..., 1."""
    edges = np.linspace(0, 1, BINS + 1)
    total = np.zeros(BINS + 1)
    for draws in np.unique(n):
        mine = n == draws
        c = np.arange(draws + 1)
        log_ways = gammaln(draws + 1) - gammaln(c + 1) - gammaln(draws - c + 1)
        x, y = a[mine, None], b[mine, None]
        below = np.cumsum(np.exp(log_ways + betaln(c + x, draws - c + y) - betaln(x, y)), axis=1)
        at = right[mine].astype(int)
        rows = np.arange(len(at))
        high = below[rows, at]
        low = np.where(at > 0, below[rows, at - 1], 0.0)
        total += np.clip((edges - low[:, None]) / np.maximum(high - low, 1e-12)[:, None], 0, 1).sum(axis=0)
    return total / len(n)
