"""One tree under every search: how it grows, what a step is, what is merged, and what comes out."""

import asyncio
import dataclasses
import itertools
import json
import xml.etree.ElementTree as ET
import zlib

import msgspec
import pytest

from howhard.strategies import (
    ABMCTS,
    DVTS,
    MCTS,
    BestFirst,
    Budget,
    ExactCheck,
    FirstOf,
    ParticleFilter,
    Prices,
    Rebase,
    Request,
    SamplingParams,
    StrategySpec,
    Tree,
    TreeSearch,
    Usage,
    Verdicts,
    Vote,
)
from howhard.strategies.errors import BackendError, ConfigError, VerifierError
from howhard.strategies.search.steps import SENTENCE_ENDS
from howhard.strategies.testing import CONTRACT, FailingOn, ScriptedBackend, Subject

PARAMS = SamplingParams(max_tokens=40, seed=0)


class Guide:
    """Scores a text by its last line, partial or not; a text that is not in the table scores 0.5."""

    name, sound, prices = "guide", False, None

    def __init__(self, table=None):
        self.table, self.asked = table or {}, []

    async def score(self, request, candidates, *, partial=False):
        texts = [c.text for c in candidates]
        self.asked += texts
        return Verdicts(tuple(self.table.get(t.rstrip("\n").rpartition("\n")[2], 0.5) for t in texts), Usage())


def backend(*texts, **kwargs):
    return ScriptedBackend(lambda prompt: texts, **kwargs)


def run(strategy, on, prompt="why?", **kwargs):
    return asyncio.run(strategy.run(Request.of(prompt), on, **kwargs))


def searches(judge, params=PARAMS, **kwargs):
    common = {"verifier": judge, "params": params, **kwargs}
    return [
        TreeSearch(width=2, branches=2, **common),
        DVTS(width=2, branches=2, **common),
        Rebase(n=5, **common),
        BestFirst(expansions=6, branches=3, batch=2, **common),
        ParticleFilter(n=5, **common),
        ParticleFilter(n=5, entropic=True, **common),
        MCTS(samples=20, batch=4, **common),
        MCTS(samples=9, batch=3, value="rollout", **common),
        ABMCTS(samples=20, batch=4, **common),
    ]


NAMES = [s.name for s in searches(Guide())]
EVERY = pytest.mark.parametrize("place", range(len(NAMES)), ids=NAMES)
SCRIPT = [f"{a}\n{b}\nAnswer: {a}{b}" for a, b in itertools.product("123", "456")]
DIGITS = {a: int(a) / 10 for a in "123456"} | {f"Answer: {a}{b}": int(b) / 10 for a in "123" for b in "456"}


# the contract


class Digits:
    """Scores any text, partial or not, by its digits."""

    name, sound, prices = "best", False, None

    async def score(self, request, candidates, *, partial=False):
        return Verdicts(tuple((sum(map(int, filter(str.isdigit, c.text))) % 11) / 10 for c in candidates))


def variants():
    by_line = searches(Digits())
    return [
        *by_line[4:],
        MCTS(verifier=Digits(), params=PARAMS, samples=12, batch=2, step_end=None, step_tokens=5),
        Rebase(n=4, verifier=Digits(), params=PARAMS, step_end=lambda text: text.find("\n") + 1 or None, step_tokens=9),
        ParticleFilter(n=4, verifier=Digits(), params=PARAMS, step_end=["\n", " "], max_steps=3, token_budget=500),
    ]


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
@pytest.mark.parametrize("place", range(len(variants())), ids=[f"{s.name}-{i}" for i, s in enumerate(variants())])
def test_every_variant_keeps_the_contract(check, place):
    on = ScriptedBackend(lambda prompt: [f"{prompt}\n{i}{i + 1}\nAnswer: {i % 3}" for i in range(7)])

    async def served():
        return on.served.completion_tokens

    async def running():
        return on.running

    prompts = tuple(f"{i} + {i + 1}" for i in range(4))
    asyncio.run(check(Subject(strategy=variants()[place], backend=on, prompts=prompts, served=served, running=running)))


def test_puct_keeps_a_seeded_result_on_an_embedded_model(local):
    own = {"verifier": Digits(), "params": PARAMS, "samples": 24, "step_end": None, "step_tokens": 2}
    results = [run(MCTS(choice="puct", **own), local, "1 + 2") for _ in range(2)]
    assert results[0].tree == results[1].tree
    assert len(results[0].tree) > 10
    assert run(MCTS(**own), local, "1 + 2").tree != results[0].tree


def test_puct_names_a_backend_without_log_probabilities():
    with pytest.raises(BackendError, match=r"PUCT needs the log-probability of every step.*choice='uct'"):
        run(MCTS(verifier=Guide(), params=PARAMS, choice="puct"), backend("a\n1", "b\n2"))


# one tree


@EVERY
def test_every_search_leaves_its_tree(place):
    strategy, events = searches(Guide(DIGITS))[place], []
    result = run(strategy, backend(*SCRIPT), trace=lambda event, fields: events.append((event, dict(fields))))
    tree = result.tree
    assert tree.strategy == strategy.name
    assert [node.index for node in tree.nodes] == list(range(len(tree)))
    assert all(node.parent is None if node.index == 0 else node.parent < node.index for node in tree.nodes)
    assert all(node.depth == tree.nodes[node.parent].depth + 1 for node in tree.nodes[1:])
    assert "".join(node.text for node in tree.chosen) == result.text
    assert tree.chosen == tree.path(tree.chosen[-1])
    drawn = [fields for event, fields in events if event == "node"]
    assert [fields["node"] for fields in drawn] == list(range(1, len(tree)))
    assert [fields["text"] for fields in drawn] == [node.text for node in tree.nodes[1:]]
    assert {"backend", "parent", "depth", "score", "copies", "completion_tokens", "finished", "kept"} <= {*drawn[0]}


@EVERY
def test_a_tree_goes_through_json_and_is_drawn(place, tmp_path):
    tree = run(searches(Guide(DIGITS))[place], backend(*SCRIPT, "<&>\nAnswer: 9"), "is 1 < 2 & 3?").tree
    tree.save(tmp_path / "tree.json")
    assert Tree.from_dict(json.loads((tmp_path / "tree.json").read_text())) == tree
    tree.save(tmp_path / "tree.svg")
    picture = ET.parse(tmp_path / "tree.svg").getroot()
    boxes = picture.findall(".//{*}g/{*}rect")
    assert len(boxes) == len(tree)
    assert sum(box.get("stroke-width") == "3" for box in boxes) == len(tree.chosen)
    assert "is 1 < 2 & 3?" in [title.text for title in picture.findall(".//{*}title")]
    places = [(box.get("x"), box.get("y")) for box in boxes]
    assert len({*places}) == len(places)


@EVERY
def test_steps_that_say_the_same_are_one_node_and_judged_once(place):
    strategy = searches(Guide(DIGITS))[place]
    result = run(strategy, backend(*SCRIPT[:4]))
    texts = [result.tree.text(node) for node in result.tree.nodes if not node.rollout]
    assert len({*texts}) == len(texts)
    own = [text for text in strategy.verifier.asked if not any(n.rollout for n in result.tree.nodes)]
    assert len({*own}) == len(own)
    steps = [node for node in result.tree.nodes[1:] if not node.rollout]
    assert sum(node.copies for node in steps) > len(steps)


@EVERY
def test_the_best_answer_is_found_where_the_verifier_knows_it(place):
    result = run(searches(Guide(DIGITS))[place], backend(*SCRIPT))
    assert result.answer.endswith("6")


@EVERY
def test_every_search_ends_with_an_answer_where_its_steps_do_not_get_there(place):
    strategy = searches(Guide(DIGITS), max_steps=1)[place]
    result = run(strategy, backend(*SCRIPT))
    assert result.answer is not None
    assert "greedily" in result.stopped_because or strategy.rollouts


@EVERY
def test_a_verifier_that_judges_no_partial_solution_is_told_on(place):
    class Whole(Guide):
        async def score(self, request, candidates, *, partial=False):
            if partial:
                return Verdicts((None,) * len(candidates))
            return await super().score(request, candidates)

    strategy = searches(Whole())[place]
    result = run(strategy, backend(*SCRIPT))
    assert result.answer is not None
    assert ("'guide' judged no partial solution" in result.stopped_because) != strategy.rollouts


def test_a_verifier_that_compares_texts_with_each_other_is_refused_as_rounds_are_judged_apart():
    for verifier in (Vote(), FirstOf("best", [ExactCheck(), Vote()])):
        with pytest.raises(ConfigError, match=f"'{verifier.name}' scores texts by comparing them"):
            searches(verifier)


@EVERY
def test_the_verifiers_words_stand_at_the_candidates(place):
    class Talks(Guide):
        async def score(self, request, candidates, *, partial=False):
            verdicts = await super().score(request, candidates)
            return dataclasses.replace(verdicts, feedback=tuple(f"about {c.text}" for c in candidates))

    result = run(searches(Talks())[place], backend(*SCRIPT))
    judged = [c for c in result.candidates if c.score is not None and c.generation.complete]
    assert judged
    assert all(c.feedback == f"about {c.text}" for c in judged)


@EVERY
@pytest.mark.parametrize("returned", [ValueError("oh"), (float("nan"),), ()], ids=["raises", "nan", "wrong length"])
def test_nothing_is_ranked_by_a_broken_verifier(place, returned):
    class Broken(Guide):
        async def score(self, request, candidates, *, partial=False):
            if isinstance(returned, Exception):
                raise returned
            return Verdicts(returned * len(candidates) if returned else ())

    on = backend(*SCRIPT)
    with pytest.raises(VerifierError, match="guide"):
        run(searches(Broken())[place], on)
    assert on.running == 0


@EVERY
def test_a_step_that_failed_is_a_node_and_costs_no_other(place):
    result = run(searches(Guide(DIGITS))[place], FailingOn(backend(*SCRIPT), {1}))
    failed = [node for node in result.tree.nodes if node.state == "failed"]
    assert failed
    assert not any(node.kept or node.chosen for node in failed)
    assert result.answer is not None


@EVERY
def test_where_every_sample_fails_nothing_more_is_sent(place):
    strategy, on = searches(Guide(DIGITS))[place], backend(*SCRIPT)
    with pytest.raises(BackendError, match="samples of 'scripted' failed; the first: failed on purpose"):
        run(strategy, FailingOn(on, range(20)))
    assert len(on.calls) == 1


@EVERY
def test_budgets_hold_with_the_verifier_s_tokens(place):
    class Reader(Guide):
        prices = Prices(prompt=1.0, completion=0.0)

        async def score(self, request, candidates, *, partial=False):
            verdicts = await super().score(request, candidates, partial=partial)
            read = sum(len(request.text) + len(c.text) + 2 for c in candidates)
            return Verdicts(verdicts.scores, Usage(verifier_tokens=read, cost=float(read)))

    for tokens in (60, 150, 400, 900):
        result = run(searches(Reader(DIGITS))[place], backend(*SCRIPT), budget=Budget(tokens=tokens))
        assert result.usage.total_tokens <= tokens
        assert result.answer is not None


# what a step is


def one_way(step_end, text, **kwargs):
    on = backend(text)
    strategy = TreeSearch(width=1, branches=1, verifier=Guide(), params=PARAMS, step_end=step_end, **kwargs)
    result = run(strategy, on)
    return result, [p.answer for prefixes, _, _ in on.calls for p in prefixes], on


@pytest.mark.parametrize(
    "step_end, tokens, starts",
    [
        ("\n", 64, ["", "a. b!\n"]),
        (SENTENCE_ENDS, 64, ["", "a. ", "a. b!\n"]),
        (["!"], 64, ["", "a. b!"]),
        (None, 3, ["", "a. ", "a. b!\n"]),
        (lambda text: text.find(" ") + 1 or None, 64, ["", "a. "]),
    ],
    ids=["line", "sentence", "own", "tokens", "function"],
)
def test_a_step_ends_where_it_is_said(step_end, tokens, starts):
    result, prefixes, _ = one_way(step_end, "a. b!\n42", step_tokens=tokens)
    assert prefixes == starts
    assert result.answer is not None
    assert result.text == "a. b!\n42"


def test_what_a_function_cuts_off_is_paid_for_and_dropped():
    result, prefixes, on = one_way(lambda text: text.find("\n") + 1 or None, "a\nbb\n42")
    assert prefixes == ["", "a\n", "a\nbb\n"]
    assert result.usage.completion_tokens == on.served.completion_tokens == 8 + 6 + 3
    assert result.candidates[0].generation.completion_tokens == 2 + 3 + 3
    assert result.text == "a\nbb\n42"


@pytest.mark.parametrize("offset", [0, -1, 99, "2", 1.5])
def test_a_function_that_gives_no_offset_is_named(offset):
    with pytest.raises(ConfigError, match=r"step_end gave .* for a text of"):
        one_way(lambda text: offset, "a\nb\n1")


def test_a_separator_that_never_comes_is_bounded_by_the_step():
    result, prefixes, on = one_way("\n", "x" * 100, step_tokens=15)
    assert [len(p) for p in prefixes] == [0, 15, 30]
    assert on.served.completion_tokens == PARAMS.max_tokens
    assert result.answer is None
    assert result.candidates[0].generation.finish_reason == "length"
    assert result.tree.nodes[-1].state == "cut"


def test_a_stop_string_over_the_end_of_a_step_ends_the_solution():
    on = backend("a\n\nmore")
    params = SamplingParams(max_tokens=40, stop=("\n\n",), seed=0)
    result = run(TreeSearch(width=1, branches=1, verifier=Guide(), params=params), on)
    assert (result.text, result.answer) == ("a", "a")


def test_prefixes_go_as_the_tokens_that_were_drawn(local):
    seen = []
    generate = local.generate

    def watched(prefixes, **kwargs):
        seen.extend(prefixes)
        return generate(prefixes, **kwargs)

    local.generate = watched
    params = SamplingParams(max_tokens=40, seed=1)
    result = run(Rebase(n=6, verifier=Digits(), params=params), local, "1 + 2")
    later = [prefix for prefix in seen if prefix.answer]
    assert later
    root = result.candidates[0].generation.prompt_token_ids
    assert all(prefix.token_ids is not None and prefix.token_ids[: len(root)] == root for prefix in later)
    for candidate in result.candidates:
        generation = candidate.generation
        assert len(generation.token_ids) == generation.completion_tokens == len(generation.logprobs)
    seen.clear()
    cut = Rebase(n=6, verifier=Digits(), params=params, step_end=lambda text: text.find("\n") + 1 or None)
    run(cut, local, "1 + 2")
    texts = [prefix for prefix in seen if prefix.answer]
    assert texts
    assert all(prefix.token_ids is None for prefix in texts)


# the rules, one by one


def test_subtrees_of_dvts_do_not_compete():
    on = backend("a\n1", "b\n2", "c\n3", "d\n4")
    table = {"a": 0.1, "b": 0.9, "c": 0.2, "d": 0.8}
    run(DVTS(width=2, branches=2, verifier=Guide(table), params=PARAMS), on)
    # Samples a, c go to the first subtree and b, d to the second; a beam would have kept b and d.
    assert [p.answer for p in on.calls[1][0]] == ["c\n", "b\n"]


def test_subtrees_at_the_same_text_share_one_call():
    on = backend("a\nx\n1", "a\ny\n2", "a\nz\n3")
    result = run(DVTS(width=2, branches=2, verifier=Guide({"x": 0.6, "y": 0.1, "z": 0.8}), params=PARAMS), on)
    assert [(p.answer, n) for prefixes, n, _ in on.calls[1:2] for p in prefixes] == [("a\n", 4)]
    assert len([c for c in result.candidates if c.generation.complete]) == 2


def test_rebase_gives_samples_by_score_and_finished_ones_take_theirs():
    on = backend("a\n1", "b\n2", "c\n3", "4")
    table = {"a": 0.9, "b": 0.7, "c": 0.1}
    run(Rebase(n=8, spread=0.2, verifier=Guide(table), params=PARAMS), on)
    # Of 8 samples 2 finished; two each of a, b, c: 6 in proportion to e^0, e^-1, e^-4.
    [first] = on.calls[0][0]
    assert (first.answer, on.calls[0][1]) == ("", 8)
    assert {p.answer: n for prefixes, n, _ in on.calls[1:] for p in prefixes} == {"a\n": 4, "b\n": 2}


def test_best_first_turns_back_to_an_earlier_step():
    on = backend("a\nx\n1", "b\ny\n2")
    table = {"a": 0.9, "x": 0.1, "b": 0.6, "y": 0.5}
    run(BestFirst(verifier=Guide(table), branches=2, params=PARAMS), on)
    assert [p.answer for prefixes, _, _ in on.calls for p in prefixes] == ["", "a\n", "b\n", "b\ny\n", "a\nx\n"]


def test_best_first_stops_at_its_expansions_or_solutions():
    on = backend(*SCRIPT)
    few = run(BestFirst(verifier=Guide(DIGITS), expansions=1, branches=2, params=PARAMS), on)
    assert few.stopped_because.startswith("made all 1 expansions; the best way was written to its end greedily")
    one = run(BestFirst(verifier=Guide(DIGITS), solutions=1, params=PARAMS), backend(*SCRIPT))
    assert one.stopped_because == "1 solutions had finished"


def test_all_particles_move_on_and_gather_where_the_weight_is():
    on = backend("a\nx\n1", "b\ny\n2")
    run(ParticleFilter(n=6, verifier=Guide({"a": 0.999, "b": 0.001}), params=PARAMS), on)
    assert [(p.answer, n) for prefixes, n, _ in on.calls for p in prefixes] == [("", 6), ("a\n", 6), ("a\nx\n", 6)]


def test_a_finished_particle_stays_while_its_weight_holds():
    on = backend("7", "a\nx\n1")
    result = run(ParticleFilter(n=4, verifier=Guide({"7": 0.5, "a": 0.5, "x": 0.5, "1": 0.5}), params=PARAMS), on)
    assert [n for _, n, _ in on.calls] == [4, 2, 2]
    assert result.stopped_because == "every particle had ended after 3 levels"


def test_every_sample_of_mcts_is_one_visit():
    result = run(MCTS(samples=24, batch=4, verifier=Guide(DIGITS), params=PARAMS), backend(*SCRIPT))
    nodes = result.tree.nodes
    assert nodes[0].visits == sum(node.copies for node in nodes[1:]) <= 24
    for node in nodes[1:]:
        assert node.visits == node.copies + sum(child.visits for child in result.tree.children(node))


def test_a_rollout_gives_its_score_to_the_step_before_it():
    table = {"Answer: 14": 0.2, "Answer: 26": 0.9}
    on = backend("1\n4\nAnswer: 14", "2\n6\nAnswer: 26")
    strategy = MCTS(samples=8, value="rollout", verifier=Guide(table), params=PARAMS)
    result = run(strategy, on)
    assert all(text.rpartition("\n")[2].startswith("Answer") for text in strategy.verifier.asked)
    first = [node for node in result.tree.nodes if node.depth == 1]
    assert {node.text: node.score for node in first} == {"1\n": 0.2, "2\n": 0.9}
    assert result.answer == "26"


def test_what_has_nothing_left_below_it_is_not_visited_again():
    result = run(MCTS(samples=500, verifier=Guide(DIGITS), params=PARAMS), backend(*SCRIPT))
    assert result.stopped_because == "every way had ended"
    first = [node.text[0] for node in result.tree.nodes if node.depth == 1]
    assert {c.answer for c in result.candidates} == {f"{a}{b}" for a in first for b in "456"}
    assert result.tree.nodes[0].visits < 100
    again = run(ABMCTS(samples=500, verifier=Guide(DIGITS), params=PARAMS), backend(*SCRIPT))
    assert again.stopped_because == "every way had ended"


def known_tree():
    """Four letters deep, three wide; a text is worth more the more of its letters are a, the first ones most."""
    texts = ["\n".join(word) for word in itertools.product("abc", repeat=4)]
    worth = {"a": 1.0, "b": 0.6, "c": 0.2}

    class Known(Guide):
        async def score(self, request, candidates, *, partial=False):
            letters = [[worth[x] for x in c.text.split()] for c in candidates]
            return Verdicts(tuple(sum(row) / len(row) for row in letters))

    return texts, Known()


class Dice(ScriptedBackend):
    """Draws each sample at random, by its seed and prefix, so that rounds of any size are alike."""

    def _start(self, prefix, i, params, book):
        drawn = zlib.crc32(f"{params.seed + i}/{prefix.answer}".encode())
        return super()._start(prefix, i, params.but(seed=drawn - i), book)


@pytest.mark.parametrize("search", [MCTS, ABMCTS])
def test_a_batch_in_flight_is_as_good_as_one_at_a_time_at_equal_samples(search):
    texts, judge, seeds = *known_tree(), range(16)
    share, found, rounds = {}, {}, {}
    for batch in (1, 8):
        trees, calls = [], 0
        for seed in seeds:
            params = SamplingParams(max_tokens=40, seed=100 * seed)
            result = run(search(samples=72, batch=batch, verifier=judge, params=params), Dice(lambda prompt: texts))
            assert result.usage.completion_tokens == sum(n.completion_tokens * n.copies for n in result.tree.nodes)
            calls += result.usage.calls
            trees.append(result.tree)
        visits = [(t.nodes[0].visits, sum(n.visits for n in t.nodes if t.text(n) == "a\n")) for t in trees]
        share[batch] = sum(best for _, best in visits) / sum(every for every, _ in visits)
        found[batch] = sum(tree.chosen[-1].score for tree in trees) / len(trees)
        rounds[batch] = calls
    # Mere random sampling would send a third of all below the best letter, and score .6.
    assert min(share.values()) > 0.38
    assert share[8] > share[1] - 0.06
    assert found[8] > max(found[1] - 0.03, 0.9)
    assert rounds[8] < rounds[1]


# settings and specs


def test_the_router_s_beams_load_as_they_were_written():
    written = {
        "kind": "tree_search", "temperature": 1.0, "top_p": 1.0, "max_tokens": 160, "width": 1, "branches": 2,
        "verifier": "prm", "step_end": "\n", "step_tokens": 64, "max_steps": 32, "token_budget": None,
    }  # fmt: skip
    spec = msgspec.json.decode(json.dumps(written), type=StrategySpec)
    assert spec.name == "beam_1x2"
    assert json.loads(msgspec.json.encode(spec)) == written | {"places": "distinct"}  # a setting that came later


@pytest.mark.parametrize(
    "described, name",
    [
        ({"kind": "tree_search"}, "beam_4x4"),
        ({"kind": "dvts"}, "dvts_4x4"),
        ({"kind": "rebase"}, "rebase_16"),
        ({"kind": "best_first"}, "best_first_32x4"),
        ({"kind": "particles"}, "particles_16"),
        ({"kind": "particles", "n": 4, "entropic": True}, "particles_4_entropic"),
        ({"kind": "mcts"}, "mcts_96"),
        ({"kind": "mcts", "choice": "puct", "value": "rollout", "samples": 8}, "mcts_8_puct_rollout"),
        ({"kind": "ab_mcts"}, "ab_mcts_96"),
        ({"kind": "rebase", "n": 2, "step_end": [". ", "\n"]}, "rebase_2_step_end_020b4f"),
        ({"kind": "rebase", "n": 2, "step_end": None, "step_tokens": 16}, "rebase_2_step_end_none_step_tokens_16"),
    ],
)
def test_a_kind_alone_describes_a_search(described, name):
    spec = msgspec.convert(described, StrategySpec)
    assert spec.name == name
    assert spec.needs_verifiers == ("best",)
    assert msgspec.json.decode(msgspec.json.encode(spec), type=StrategySpec) == spec


@pytest.mark.parametrize(
    "described, words",
    [
        ({"kind": "dvts", "width": 0}, "width=0"),
        ({"kind": "rebase", "n": 0}, "n=0"),
        ({"kind": "rebase", "spread": 0.0}, "spread=0.0"),
        ({"kind": "best_first", "solutions": 0}, "solutions=0"),
        ({"kind": "particles", "n": 0}, "n=0"),
        ({"kind": "mcts", "samples": 0}, "samples=0"),
        ({"kind": "mcts", "widen_alpha": 1.0}, "widen_alpha=1.0"),
        ({"kind": "mcts", "widen_k": 0.5}, "widen_k=0.5"),
        ({"kind": "mcts", "exploration": -1.0}, "exploration=-1.0"),
        ({"kind": "mcts", "temperature": 0.0}, "the same step again and again"),
        ({"kind": "ab_mcts", "batch": 0}, "batch=0"),
        ({"kind": "ab_mcts", "prior_mean": 2.0}, "prior_mean=2.0"),
        ({"kind": "rebase", "step_end": []}, "step_end is empty"),
        ({"kind": "rebase", "step_end": ["\n", ""]}, "step_end is empty"),
    ],
)
def test_settings_are_checked_when_read(described, words):
    with pytest.raises(msgspec.ValidationError, match=words):
        msgspec.convert(described, StrategySpec)


def test_a_choice_that_is_none_is_named():
    with pytest.raises(ConfigError, match="choice='utc'; did you mean 'uct'"):
        MCTS(verifier=Guide(), choice="utc")
