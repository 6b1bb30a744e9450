import dataclasses
import math

import numpy as np
import pytest

from howhard.router.features import FeatureSpec
from howhard.router.predictor import Predictor
from howhard.strategies.errors import ConfigError
from howhard.training import commands
from howhard.training.fit import FitSettings
from howhard.training.learn_trees import TreesLearner
from howhard.training.tuning import SPACE as SHIPPED
from howhard.training.tuning import Choice, Dial, Trial, Tuned, difference_errors, search, tune

SPACE = (
    Choice(path="components", options=("text", "text+trees")),
    Dial(path="trees.leaves", low=4, high=60, whole=True),
    Dial(path="trees.l2", low=0.1, high=100),
)
N = 200


class Bowl:
    """A made-up error with its least at trees of 20 leaves, l2 = 10 and the text alone; it counts its calls."""

    def __init__(self, *, noise: float = 0.0, stop_at: int | None = None) -> None:
        self.noise, self.stop_at, self.tried = noise, stop_at, []

    def __call__(self, settings: FitSettings) -> np.ndarray:
        if len(self.tried) == self.stop_at:
            raise KeyboardInterrupt
        self.tried.append(settings)
        trees = settings.trees
        error = 1 + math.log(trees.leaves / 20) ** 2 + math.log(trees.l2 / 10) ** 2 + (len(settings.components) - 1)
        noise = np.random.default_rng(len(self.tried)).normal(0, self.noise, N)
        return np.where(np.arange(N) % 10 == 0, np.nan, error + noise)


START = FitSettings(components=("text", "trees"), trees=TreesLearner(leaves=5, l2=0.5, min_rows=7))


def test_a_search_finds_better_settings_and_leaves_the_others_alone():
    tuned = search(Bowl(), START, about="d", trials=25, space=SPACE)
    assert tuned.settings.components == ("text",)
    assert tuned.best.error < 1.5 < tuned.trials[0].error
    assert tuned.gain == pytest.approx(tuned.trials[0].error - tuned.best.error)
    assert tuned.changed
    assert tuned.settings.trees.min_rows == 7
    assert tuned.settings == dataclasses.replace(
        START,
        components=("text",),
        trees=dataclasses.replace(
            START.trees, leaves=tuned.best.values["trees.leaves"], l2=tuned.best.values["trees.l2"]
        ),
    )
    assert len(tuned.trials) == 25
    assert not tuned.stopped_because


def test_the_first_trial_is_of_the_settings_given_even_outside_of_the_space():
    far = dataclasses.replace(START, trees=TreesLearner(leaves=2))
    bowl = Bowl()
    tuned = search(bowl, far, about="d", trials=1, space=SPACE)
    assert bowl.tried == [far]
    assert tuned.settings == far
    assert tuned.trials[0].values == {}
    assert not tuned.changed
    assert "none is better" in tuned.text()


def test_what_is_better_by_chance_alone_does_not_replace_the_settings_given():
    best = dataclasses.replace(START, components=("text",), trees=TreesLearner(leaves=20, l2=10))
    tuned = search(Bowl(noise=30.0), best, about="d", trials=2, space=SPACE, seed=3)
    assert not tuned.changed
    assert tuned.settings == best


def test_equal_seeds_try_equal_settings_and_another_seed_does_not():
    def tried(seed):
        return [t.values for t in search(Bowl(), START, about="d", trials=6, space=SPACE, seed=seed).trials]

    assert tried(0) == tried(0) != tried(1)


def test_a_search_that_was_interrupted_keeps_its_best_and_goes_on_from_its_journal_to_the_same_end(tmp_path):
    journal = tmp_path / "deep" / "tuning.journal"
    first = search(Bowl(stop_at=7), START, about="d", trials=15, space=SPACE, journal=journal)
    assert first.stopped_because == "interrupted"
    assert len(first.trials) == 7
    assert "stopped: interrupted" in first.text()
    again = Bowl()
    second = search(again, START, about="d", trials=15, space=SPACE, journal=journal)
    assert len(again.tried) == 9  # the settings given once more, to pair with, and the eight that were missing
    whole = search(Bowl(), START, about="d", trials=15, space=SPACE)
    assert [t.values for t in second.trials] == [t.values for t in whole.trials]
    assert second.settings == whole.settings
    done = Bowl()
    assert search(done, START, about="d", trials=15, space=SPACE, journal=journal).settings == whole.settings
    assert not done.tried


def test_other_data_or_another_start_begins_anew_in_the_same_journal(tmp_path):
    journal = tmp_path / "tuning.journal"
    search(Bowl(), START, about="d", trials=3, space=SPACE, journal=journal)
    for changes in ({"about": "e"}, {"seed": 1}, {"space": SPACE[:2]}):
        bowl = Bowl()
        search(bowl, START, **{"about": "d", "trials": 3, "space": SPACE, "journal": journal, **changes})
        assert len(bowl.tried) == 3


def test_no_trial_is_begun_when_the_time_is_over():
    tuned = search(Bowl(), START, about="d", trials=9, seconds=0.0, space=SPACE)
    assert len(tuned.trials) == 1
    assert tuned.stopped_because == "0 s were over"


def test_progress_ends_at_the_number_of_trials():
    seen = []
    search(Bowl(), START, about="d", trials=4, space=SPACE, progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (1, 4)
    assert seen[-1] == (4, 4)


def test_no_trial_at_all_and_a_space_that_does_not_fit_are_refused():
    with pytest.raises(ConfigError, match="trials=0: at least 1"):
        search(Bowl(), START, about="d", trials=0, space=SPACE)
    with pytest.raises(ConfigError, match=r"'trees\.leafs'.*no 'leafs'"):
        search(Bowl(), START, about="d", trials=2, space=(Dial(path="trees.leafs", low=1, high=2),))


def test_the_space_that_is_shipped_fits_the_settings_and_holds_the_defaults():
    plain = FitSettings()
    tuned = search(Bowl(), plain, about="d", trials=4)
    assert all(set(t.values) == {d.path for d in SHIPPED} for t in tuned.trials[1:])
    components = next(d for d in SHIPPED if isinstance(d, Choice))
    assert "+".join(plain.components) in components.options
    for dial in SHIPPED:
        if isinstance(dial, Dial):
            _, _, name = dial.path.partition(".")
            assert dial.low <= getattr(plain.joint_trees, name) <= dial.high


def test_the_error_is_that_of_the_differences_between_pairs_of_arms(make_world):
    matrix = make_world(60).matrix
    rng = np.random.default_rng(0)
    quality = rng.random(matrix.quality.shape)
    pairs = [(0, 1), (0, 2), (1, 2)]

    def by_hand(predicted):
        return sum(
            ((predicted[:, i] - predicted[:, j]) - (matrix.quality[:, i] - matrix.quality[:, j])) ** 2 for i, j in pairs
        )

    means = np.broadcast_to(matrix.arm_quality, quality.shape)
    assert difference_errors(quality, matrix) == pytest.approx(by_hand(quality) / by_hand(means).mean())
    assert difference_errors(means, matrix).mean() == pytest.approx(1)


def test_with_one_arm_per_prompt_the_error_is_that_of_the_outcomes(make_world):
    matrix = make_world(60).matrix
    quality = np.where(np.arange(3) == (np.arange(60) % 3)[:, None], matrix.quality, np.nan)
    sparse = dataclasses.replace(matrix, quality=quality)
    error = difference_errors(np.full(quality.shape, 0.25), sparse)
    squares = np.nansum((quality - 0.25) ** 2, axis=1)
    assert error == pytest.approx(squares / np.nansum((quality - sparse.arm_quality) ** 2, axis=1).mean())


def test_outcomes_that_never_differ_have_an_error_that_is_finite(make_world):
    matrix = make_world(40).matrix
    equal = dataclasses.replace(matrix, quality=np.ones(matrix.quality.shape))
    assert (difference_errors(np.ones(equal.quality.shape), equal) == 0).all()


def test_a_table_is_tuned_by_its_own_out_of_fold_errors(make_world, tmp_path):
    matrix = make_world(60).matrix
    start = FitSettings(components=("neighbours", "trees"), trees=TreesLearner(rounds=2, min_rows=60))
    space = (
        Dial(path="trees.rounds", low=2, high=6, whole=True),
        Dial(path="trees.min_rows", low=5, high=60, whole=True),
    )
    tuned = tune(matrix, start, trials=3, space=space, journal=tmp_path / "j")
    assert len(tuned.trials) == 3
    assert all(0 < t.error < 1.2 for t in tuned.trials)
    assert 2 <= tuned.trials[1].values["trees.rounds"] <= 6
    assert tuned.to_dict()["settings"]["components"] == ("neighbours", "trees")
    assert "3 trials" in tuned.text()


def test_a_router_is_trained_with_the_settings_that_were_found(make_world, tmp_path, mlflow_uri, monkeypatch):
    seen = {}

    def found(matrix, settings, **options):
        seen.update(options, prompts=set(matrix.prompt_ids))
        better = dataclasses.replace(settings, components=("neighbours",))
        trials = (Trial(number=0, error=0.9, seconds=1, values={}), Trial(number=1, error=0.5, seconds=1, values={}))
        return Tuned(settings=better, trials=trials, gain=0.4, gain_se=0.1)

    # A fake search: what is tested is that training asks for it, of the training prompts alone, and takes its answer.
    monkeypatch.setattr(commands, "search_settings", found)
    world = make_world(150)
    source = commands.Source(name="made up", outcomes=world.outcomes, matrix=world.matrix)
    start = FitSettings(components=("neighbours", "trees"), features=FeatureSpec(n_hashed=0, n_text=1024))
    report = commands.train(source, tmp_path / "r", tune=2, settings=start, register=False, quiet=True)
    assert seen["trials"] == 2
    assert seen["journal"] == tmp_path / "r-tuning.journal"
    held = commands.held_out(world.matrix.clusters, 0.25)
    assert seen["prompts"] == {p for p, out in zip(world.matrix.prompt_ids, held, strict=True) if not out}
    assert Predictor.load(tmp_path / "r").components[0].name == "neighbours"
    assert "2 trials: trial 1 lowers the error of differences from 0.9000 to 0.5000" in report.text()
    assert report.to_dict()["tuned"]["changed"]
    assert report.text().count("\nGuard: ") == 1
