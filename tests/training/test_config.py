"""A configuration is checked whole, and an error names the field, the value and the remedy."""

import pytest

from howhard.strategies.errors import ConfigError
from howhard.training.config import EXAMPLE, fit_settings, for_server, load_config, load_train_config, parse_config
from howhard.training.fit import FitSettings


def test_the_printed_example_is_a_valid_configuration():
    config = parse_config(EXAMPLE)
    assert [arm.name for arm in config.arms] == ["small/single", "small/vote_of_8", "large/single"]
    assert config.collect.samples == 16
    asking = parse_config(EXAMPLE.replace("# confidence_of = 20", "confidence_of = 20"))
    assert (config.collect.confidence_of, asking.collect.confidence_of) == (0, 20)


def test_arms_take_the_sampling_settings_of_collect_unless_they_set_their_own():
    config = parse_config(EXAMPLE.replace('kind = "single" }', 'kind = "single", max_tokens = 7 }', 1))
    assert [arm.strategy.max_tokens for arm in config.arms] == [7, 1024, 1024]
    assert {arm.strategy.temperature for arm in config.arms} == {0.8}


def test_a_url_and_a_model_stand_for_one_backend_with_votes():
    config = for_server("http://127.0.0.1:8000/v1", "m", api_key_env="KEY")
    assert [arm.name for arm in config.arms] == [
        "server/single",
        "server/vote_of_4",
        "server/vote_of_8",
        "server/vote_of_16",
    ]
    assert {arm.strategy.max_tokens for arm in config.arms} == {config.collect.max_tokens}
    assert len(for_server("http://127.0.0.1:8000/v1", "m", samples=4).arms) == 2


@pytest.mark.parametrize(
    "old, new, said",
    [
        ("samples =", "sampels =", "unknown setting 'collect.sampels'; did you mean 'samples'"),
        ('model = "Qwen/Qwen2.5-14B', 'modle = "Q', "'backends.large.modle'; did you mean 'model'"),
        (
            "completion = 8e-7",
            "completiom = 1",
            "'backends.large.prices.completiom'; did you mean 'completion'",
        ),
        ("n = 8,", "m = 8,", "unknown setting 'arms[1].strategy.m'"),
        ('backend = "large"', 'backend = "lrge"', "wants backend 'lrge'; did you mean 'large'"),
        ('verifier = "vote"', 'verifier = "voet"', "wants verifier 'voet'; did you mean 'vote'"),
        ('kind = "single"', 'kind = "singel"', "'singel'; did you mean 'single'"),
        ("samples = 16", 'samples = "x"', "collect.samples: Expected `int`, got `str`"),
        ("samples = 16", "samples = 0", "samples=0 must be at least 1"),
        ("# confidence_of = 20", "confidence_of = -1", "collect: confidence_of=-1 must not be negative"),
        ("prompt = 2e-8", "prompt = -1", "prices.prompt=-1"),
        ("prompt = 2e-8", "prompt = nan", "prices.prompt=nan"),
        ('url = "http://127.0.0.1:8000/v1"', 'url = "127.0.0.1"', "it must begin with http://"),
        ("[collect]", "[collect", "not valid TOML"),
    ],
)
def test_a_wrong_setting_is_an_error_that_names_it(old, new, said):
    assert old in EXAMPLE
    with pytest.raises(ConfigError, match=r"howhard\.toml") as caught:
        parse_config(EXAMPLE.replace(old, new, 1), source="howhard.toml")
    assert said in str(caught.value)


PARTS = """
[backends.small]
kind = "local"
model = "tiny-small"

[verifiers.grader]
{verifier}

[[arms]]
backend = "small"
strategy = {strategy}
"""


@pytest.mark.parametrize(
    "verifier, said",
    [
        ('kind = "judge"', "verifiers.grader: Object missing required field `backend`"),
        ('kind = "judge"\nbackend = "smal"', "verifier 'grader' asks backend 'smal'; did you mean 'small'"),
        ('kind = "judge"\nbackend = "small"\nmode = "pairs"', "verifiers.grader.mode: Invalid enum value 'pairs'; did"),
        ('kind = "judge"\nbackend = "small"\nscale = 10', "verifiers.grader: scale=10"),
        ('kind = "judge"\nbackend = "small"\nsampls = 1', "'verifiers.grader.sampls'; did you mean 'samples'"),
        ('kind = "first_of"\nverifiers = ["grade"]', "verifier 'grader' wants verifier 'grade'; did you mean 'grader'"),
        ('kind = "jury"', "verifiers.grader.kind: Invalid value 'jury'; known: classifier"),
    ],
)
def test_a_wrong_setting_of_a_verifier_names_it(verifier, said):
    with pytest.raises(ConfigError) as caught:
        parse_config(PARTS.format(verifier=verifier, strategy='{ kind = "single" }'))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "strategy, said",
    [
        ('{ kind = "mcts", choice = "uctt" }', "strategy.choice: Invalid enum value 'uctt'; did you mean 'uct'"),
        ('{ kind = "mcts", sample = 8 }', "'arms[0].strategy.sample'; did you mean 'samples'"),
        ('{ kind = "cascade", stages = [{ strategi = {} }] }', "stages[0].strategi'; did you mean 'strategy'"),
    ],
)
def test_what_stands_in_a_message_is_of_the_kind_that_was_given(strategy, said):
    with pytest.raises(ConfigError) as caught:
        parse_config(PARTS.format(verifier='kind = "vote"', strategy=strategy))
    assert said in str(caught.value)


def test_two_arms_of_one_name_are_refused():
    twice = EXAMPLE + '\n[[arms]]\nbackend = "small"\nstrategy = { kind = "single", max_tokens = 3 }\n'
    with pytest.raises(ConfigError, match="two arms are called 'small/single'"):
        parse_config(twice)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.toml: cannot be read"):
        load_config(tmp_path / "absent.toml")


FIT = """
[fit]
components = ["text", "trees"]
seed = 7
trees = { rounds = 9 }
guard = { strengths = [0.5, 1] }
features = { n_hashed = 64 }
policy = { kind = "utility", guard = 1.5 }
"""


def test_a_file_for_training_alone_names_no_backend(tmp_path):
    (tmp_path / "fit.toml").write_text(FIT + "[objective]\nvalue = 3\n")
    found = load_train_config(tmp_path / "fit.toml")
    settings = fit_settings(found.fit)
    assert (settings.components, settings.seed, settings.trees.rounds) == (("text", "trees"), 7, 9)
    assert settings.guard.strengths == (0.5, 1.0)
    assert settings.features.n_hashed == 64
    assert settings.policy.guard == 1.5
    assert settings.trees.leaves == FitSettings().trees.leaves
    assert found.objective.value == 3
    assert found.tracking.uri is None


def test_a_whole_configuration_gives_training_its_part(tmp_path):
    (tmp_path / "howhard.toml").write_text(EXAMPLE + FIT)
    found = load_train_config(tmp_path / "howhard.toml")
    assert fit_settings(found.fit, components=None, seed=8).seed == 8
    assert found.tracking.uri == "sqlite:///mlflow.db"


def test_the_fit_section_of_the_printed_example_holds_the_defaults(tmp_path):
    _, _, section = EXAMPLE.partition("# [fit]")
    lines = [line.removeprefix("# ") for line in section.splitlines()[1:] if line.startswith("# ")]
    (tmp_path / "fit.toml").write_text("\n".join(["[fit]", *lines]))
    assert fit_settings(load_train_config(tmp_path / "fit.toml").fit) == FitSettings()


@pytest.mark.parametrize(
    "old, new, said",
    [
        ("seed = 7", "sed = 7", "unknown setting 'fit.sed'; did you mean 'seed'"),
        ("rounds = 9", "round = 9", "unknown setting 'fit.trees.round'; did you mean 'rounds'"),
        ("rounds = 9", "rounds = 0", "fit.trees: rounds=0: it must be at least 1"),
        ("rounds = 9", 'rounds = "x"', "fit.trees.rounds: Expected `int`, got `str`"),
        ("trees = { rounds = 9 }", "trees = 9", "fit.trees: it must be a table of settings, not 9"),
        ('"trees"]', '"tree"]', "fit: components: there is no 'tree'; did you mean 'trees'"),
        ("n_hashed = 64", "n_hashd = 64", "fit.features: Object contains unknown field `n_hashd`"),
        ("n_hashed = 64", "n_hashed = 63", "features.n_hashed=63"),
        ("[fit]", "[ftt]", "unknown setting 'ftt'; did you mean 'fit'"),
    ],
)
@pytest.mark.parametrize("rest", ["", EXAMPLE], ids=["alone", "whole"])
def test_a_wrong_setting_of_a_fit_names_it(tmp_path, old, new, said, rest):
    assert old in FIT
    path = tmp_path / "howhard.toml"
    path.write_text(rest + FIT.replace(old, new, 1))
    with pytest.raises(ConfigError, match=r"howhard\.toml") as caught:
        load_train_config(path)
    assert said in str(caught.value)


def test_an_encoder_is_the_one_that_was_named():
    plain = FitSettings()
    named = fit_settings({}, encoder="some/model")
    assert named.features.encoder.model == "some/model"
    assert named.components == plain.components
    assert fit_settings({"components": ["text", "encoder"]}).features.encoder is None
    with pytest.raises(ConfigError, match="no model that embeds prompts is named: give --encoder"):
        fit_settings({}, components=["text", "encoder"])
    assert fit_settings({}, encoder="some/model", components=["encoder"]).components == ("encoder",)
    static = {"features": {"encoder": {"model": "potion", "kind": "model2vec"}}}
    assert fit_settings(static).components == named.components
    other = fit_settings(static, encoder="other", components=["text"])
    assert (other.features.encoder.kind, other.features.encoder.model) == ("model2vec", "other")
    assert other.components == ("text",)
    assert fit_settings({}) == plain
