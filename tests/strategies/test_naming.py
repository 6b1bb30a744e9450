"""Names tell differently set strategies apart."""

import itertools
import json

import msgspec
import pytest

from howhard.strategies.catalogue import STRATEGIES
from howhard.strategies.spec import StrategyFields

SILENT = {*StrategyFields.__struct_fields__, "errors"}
"""How texts are drawn, and what best-of-N is only warned by."""

GROUND = {
    "best_of_n": {"selection": "majority"},
    "cascade": {"hedge_after_s": 2.0, "hedge_quantile": 0.9},
    "chain_of_thought": {"template": None, "thinking_tokens": 64, "waits": 1},
    "self_consistency": {"n": 32, "weights": "confidence,keep=0.5", "online": True},
}
"""Settings of a kind under which all its others mean something."""

OTHERS = {
    "places": "drawn",
    "accept": "score >= 0.5", "choice": "puct", "value": "rollout", "verifier": "other", "selection": "weighted",
    "stop": "beta:0.9", "equivalence": "text", "weights": "confidence,keep=0.25", "online": False, "cap_by": "here",
    "critique": "{prompt} {answer}?", "fix": "{feedback}!", "template": "{prompt}, please", "reasoning_effort": "low",
    "step_end": None, "token_budget": 999, "critique_tokens": 99, "prior_mean": 0.25, "exploration": 0.7,
    "thinking_tokens": 65, "threshold": 0.5, "widen_k": 4.0, "widen_alpha": 0.4, "hedge_quantile": 0.8,
    "hedge_after_s": 3.0, "frequent": 0.2, "spread": 0.4, "opened": True, "entropic": True,
    "stages": (
        {"strategy": {"kind": "self_consistency", "n": 5}, "accept": "agreement >= 0.6"},
        {"strategy": {"kind": "best_of_n"}},
    ),
}  # fmt: skip
"""Another value for settings that are no whole numbers or plain texts."""


def other(name, value):
    if name in OTHERS:
        return OTHERS[name]
    return value + 1 if isinstance(value, int) else f"{value}-"


def variants():
    for kind in STRATEGIES:
        tag = kind.__struct_config__.tag
        for name in kind.__struct_fields__:
            if name not in SILENT:
                prompted = (tag, name) == ("chain_of_thought", "template")  # waits are for models that are not
                ground = {"kind": tag, **({} if prompted else GROUND.get(tag, {}))}
                value = getattr(msgspec.convert(ground, kind), name)
                yield pytest.param(kind, ground, {**ground, name: other(name, value)}, id=f"{tag}.{name}")


@pytest.mark.parametrize(("kind", "ground", "changed"), list(variants()))
def test_every_setting_that_changes_what_is_done_shows_in_the_name(kind, ground, changed):
    one, two = msgspec.convert(ground, kind), msgspec.convert(changed, kind)
    assert one != two
    assert one.name != two.name


def test_names_of_the_defaults_differ_from_kind_to_kind_and_are_short():
    names = [kind().name for kind in STRATEGIES]
    assert len(set(names)) == len(names)
    assert max(map(len, names)) < 60


@pytest.mark.parametrize("verifier", ["best", "prm", "tiny-prm"])
def test_arms_that_shipped_keep_their_names(verifier):
    spec = {"kind": "tree_search", "width": 1, "branches": 2, "verifier": verifier}
    kinds = {k.__struct_config__.tag: k for k in STRATEGIES}
    assert msgspec.json.decode(json.dumps(spec), type=kinds["tree_search"]).name == "beam_1x2"


def test_texts_show_as_a_hash_that_never_changes():
    kinds = {k.__struct_config__.tag: k for k in STRATEGIES}
    ends = [("\n", ". "), ("\n",), None]
    names = [kinds["rebase"](step_end=end).name for end in ends]
    assert names == [kinds["rebase"](step_end=end).name for end in ends]
    assert all(a != b for a, b in itertools.pairwise(names))
    assert names[2] == "rebase_16_step_end_none"
