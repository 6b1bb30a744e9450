"""What commands have at hand: names from the package and a configuration, opened when used."""

import asyncio

import pytest

from howhard.strategies import ArmSpec, BestOfNSpec, SingleSpec
from howhard.strategies.errors import ConfigError
from howhard.training.config import for_server, parse_config
from howhard.training.workbench import Workbench, at_hand

OWN = """
[backends.mine]
kind = "vllm"
url = "http://127.0.0.1:{port}/v1"
model = "{model}"
fingerprint = "f"
prices = {{ prompt = {price}, completion = 2.0 }}

[verifiers.best]
kind = "first_of"
verifiers = ["inner"]

[verifiers.inner]
kind = "{inner}"

[[arms]]
backend = "mine"
strategy = {{ kind = "best_of_n" }}
"""


def own(**changes):
    return parse_config(OWN.format(**{"port": 1, "model": "m", "price": 1.0, "inner": "vote"} | changes))


def identity(config, spec=None):
    async def ask():
        async with Workbench(at_hand(config)) as bench:
            spec_ = spec or config.arms[0]
            bench.arm(spec_)
            return bench.identity(spec_)

    return asyncio.run(ask())


def test_without_a_configuration_the_embedded_models_are_there():
    at = at_hand(None)
    assert (at.chosen, at.verifier, at.instructed) == (("tiny-small",), "tiny-prm", False)
    assert {"tiny-small", "tiny-large"} <= set(at.backends)
    assert {"tiny-prm", "vote", "check", "best"} <= set(at.verifiers)
    assert at.scores_steps("tiny-prm")
    assert at.scores_steps("best")
    assert not at.scores_steps("vote")


def test_a_server_is_not_judged_by_the_reward_model_of_the_embedded_ones():
    at = at_hand(for_server("http://127.0.0.1:9/v1", "m"))
    assert (at.chosen, at.verifier, at.instructed) == (("server",), "best", True)
    assert at.verifiers["best"].verifiers == ("check", "vote")


def test_names_of_a_configuration_come_before_those_of_the_package():
    assert at_hand(own()).verifiers["best"].verifiers == ("inner",)


def test_nothing_is_opened_before_it_is_used():
    async def use():
        async with Workbench(at_hand(None)) as bench:
            bench.arm(ArmSpec(backend="tiny-small", strategy=BestOfNSpec(verifier="vote")))
            return set(bench.backends.opened), set(bench.verifiers.opened)

    assert asyncio.run(use()) == ({"tiny-small"}, {"vote"})


def test_a_verifier_made_of_itself_is_refused():
    circle = own(inner='first_of"\nverifiers = ["best"]\n# "')
    with pytest.raises(ConfigError, match="made of itself: best -> inner -> best"):
        identity(circle)


def test_an_arm_is_the_same_wherever_its_server_stands():
    assert identity(own()) == identity(own(port=2))


@pytest.mark.parametrize("change", [{"model": "other"}, {"price": 3.0}, {"inner": "logprob"}])
def test_an_arm_is_another_with_another_model_price_or_verifier_however_deep(change):
    assert identity(own()) != identity(own(**change))


def test_what_an_arm_does_not_use_changes_nothing():
    single = ArmSpec(backend="mine", strategy=SingleSpec())
    assert identity(own(), single) == identity(own(inner="logprob"), single)


def test_a_backend_that_nobody_has_is_named():
    async def use():
        async with Workbench(at_hand(None)) as bench:
            bench.arm(ArmSpec(backend="tiny-smal", strategy=SingleSpec()))

    with pytest.raises(ConfigError, match="no backend is called 'tiny-smal'; did you mean 'tiny-small'"):
        asyncio.run(use())
