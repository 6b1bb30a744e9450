import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from howhard.router.features import HEAD, TAIL, FeatureSpec, featurize
from howhard.strategies.errors import ConfigError

SPEC = FeatureSpec()
any_text = st.text(st.characters(), max_size=300)  # surrogates and control characters too


def column(name: str, text: str) -> float:
    return float(featurize([text], SPEC).dense[0, SPEC.names.index(name)])


@given(st.lists(any_text | st.text("ab 19.,()\n", max_size=80), min_size=1, max_size=4))
def test_rows_are_finite_and_depend_on_their_own_text_alone_to_the_last_bit(texts):
    rows = featurize(texts, SPEC)
    assert rows.dense.dtype == np.float32
    assert rows.dense.shape == (len(texts), len(SPEC.names))
    assert np.isfinite(rows.dense).all()
    for i, text in enumerate(texts):
        assert_same(rows[np.array([i])], featurize([text], SPEC))


def test_a_row_is_the_same_to_the_last_bit_in_a_batch_of_many_chunks():
    rng = np.random.default_rng(5)
    plain = ["the", "of", "3", "17", "2.5", "1,024", "+", "(", "A)", "what", "prove"]
    words = np.array([*plain, "π", "数", "นับ", "\n"])
    texts = [" ".join(rng.choice(words, size=n)) for n in rng.integers(0, 400, size=300)]
    rows = featurize(texts, SPEC)
    for i in range(0, 300, 7):
        assert_same(rows[np.array([i])], featurize([texts[i]], SPEC))


def assert_same(some, others):
    assert some.dense.tobytes() == others.dense.tobytes()
    assert some.text.index.tobytes() == others.text.index.tobytes()
    assert some.text.value.tobytes() == others.text.value.tobytes()


@given(any_text)
def test_sparse_rows_have_length_one_and_ascending_columns(text):
    rows = featurize(["x", text], SPEC).text
    for i in range(2):
        columns, values = (a[rows.start[i] : rows.start[i + 1]] for a in (rows.index, rows.value))
        assert (np.diff(columns) > 0).all()
        assert 0 <= columns.min() <= columns.max() < SPEC.n_text
        assert np.linalg.norm(values) == pytest.approx(1, rel=1e-5)


def cosine(one: str, other: str) -> float:
    rows = featurize([one, other], SPEC).text
    full = np.zeros((2, rows.width))
    full[np.repeat([0, 1], np.diff(rows.start)), rows.index] = rows.value
    return float(full[0] @ full[1])


def test_texts_are_alike_as_far_as_they_share_words_in_any_case_and_more_so_in_the_same_order():
    assert cosine("Solve the equation now", "solve THE equation NOW") == pytest.approx(1, rel=1e-5)
    assert cosine("Solve the equation now", "now equation solve the") > cosine(
        "Solve the equation now", "a poem on rain"
    )
    assert cosine("solve the equation", "solve the equation now") > cosine(
        "solve the equation", "equation now the solve"
    )


@pytest.mark.parametrize(
    ("one", "alike", "unlike"),
    [
        ("请计算这个方程的解", "计算方程的所有解", "写一首关于春天的诗"),
        ("จงแก้สมการนี้", "แก้สมการต่อไปนี้", "เขียนกลอนวันฝน"),
        ("احسب المعادلة", "معادلة لتحسب", "قصيدة جميلة"),
    ],
    ids=["chinese", "thai", "arabic"],
)
def test_scripts_without_spaces_or_with_prefixes_share_stretches_of_characters(one, alike, unlike):
    assert cosine(one, alike) > cosine(one, unlike) + 0.05


def test_capitals_of_other_scripts_are_the_same_word():
    assert cosine("Реши уравнение", "реши Уравнение") == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\x00\x1b\ud800",
        "9" * 5000,
        "١٢٣ ½ ²",
        "数えて下さい。",
        "a" * 10**6,
        "1 " * 10**6,
        "\n" * 10**5,
        "🧮" * 9999,
        "a." * 9999,
    ],
    ids=[
        "empty",
        "blank",
        "control",
        "huge number",
        "digits",
        "japanese",
        "long",
        "numbers",
        "lines",
        "emoji",
        "short words",
    ],
)
def test_no_text_breaks_it(text):
    rows = featurize([text], SPEC)
    assert np.isfinite(rows.dense).all()
    assert np.isfinite(rows.text.value).all()


def test_no_text_at_all_gives_no_row():
    rows = featurize([], SPEC)
    assert rows.dense.shape == (0, len(SPEC.names))
    assert len(rows.text) == 0


def test_the_same_in_another_process_whatever_the_hash_seed():
    code = (
        "from howhard.router.features import *; import hashlib;"
        "x = featurize(['Use 3, 5 and 7 to make 36. 数えて'], FeatureSpec());"
        "print(hashlib.sha256(x.dense.tobytes() + x.text.index.tobytes() + x.text.value.tobytes()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_numbers_are_read_as_people_write_them():
    text = "Use 3, 1,250 and 7.5 to make 36, then 7.5 again."
    assert column("numbers", text) == 5
    assert column("numbers_above_100", text) == 1
    assert column("log_max_number", text) == pytest.approx(np.log1p(1250))
    assert column("log_min_number", text) == pytest.approx(np.log1p(3))
    assert column("log_last_number", text) == pytest.approx(np.log1p(7.5))
    assert column("log_mean_number", text) == pytest.approx(np.log1p((3 + 1250 + 7.5 + 36 + 7.5) / 5))
    assert column("max_over_sum", text) == pytest.approx(1250 / 1304)
    assert column("decimals", text) == 2
    assert column("numbers", "3,5,17 and 1.2.3") == 5
    assert column("log_first_number", "1,234,567.25") == pytest.approx(np.log1p(1_234_567.25))


@given(st.lists(st.integers(0, 10**15) | st.decimals(0, 10**6, places=3), max_size=6))
def test_every_plain_number_is_read(numbers):
    text = " ; ".join(map(str, numbers))
    values = [float(x) for x in numbers]
    assert column("numbers", text) == len(values)
    assert column("log_max_number", text) == pytest.approx(np.log1p(max(values, default=0)), rel=1e-5)
    assert column("log_min_number", text) == pytest.approx(np.log1p(min(values, default=0)), rel=1e-5, abs=1e-6)


def test_words_and_numbers_are_counted_by_length():
    text = "I am here, 12 or 1234567890 of extraordinary ones ++ ="
    assert [column(f"words_of_{i}", text) for i in range(1, 8)] == [1, 3, 0, 2, 0, 0, 1]
    assert column("digits_of_2", text) == column("digits_of_7", text) == 1
    assert column("symbols_of_1", text) == 2
    assert column("symbols_of_2", text) == 1
    assert column("mean_word_length", text) == pytest.approx(28 / 7)
    assert column("count_space", text) == text.count(" ")


def test_marks_of_the_task_are_seen():
    text = "Which of these is true?\n```python\nf()\n```\nA) one\nB) two\nC) three. Prove it, answer as JSON."
    for mark in ("asks_which", "asks_prove", "asks_json"):
        assert column(mark, text) == 1
    assert column("options", text) == 3
    assert column("count_backtick", text) == 6
    assert column("asks_which", "add 1 and 2") == 0


def test_hashed_columns_describe_the_phrasing_and_not_the_numbers():
    hashed = [i for i, n in enumerate(SPEC.names) if n.startswith(("word_", "pair_"))]
    one, other, third = featurize(["use 3 and 5 now", "use 77 and 81 now", "now use 3 and 5"], SPEC).dense[:, hashed]
    assert np.array_equal(one, other)
    assert not np.array_equal(one, third)
    assert one.sum() == 6 + 6  # with the end of the text, and the pairs of the first and the last word with it


def test_only_both_ends_of_a_long_text_are_looked_at_but_its_length_is_known():
    head, tail = "start " * (HEAD // 6), " end." * (TAIL // 5)
    one, other = (featurize([head + middle + tail], SPEC).dense[0] for middle in ("7" * 9000, "x" * 9000))
    assert np.array_equal(one, other)
    assert one[0] == pytest.approx(np.log1p(len(head) + 9000 + len(tail)))
    assert not np.array_equal(one, featurize([head + "7" * 9000 + tail[:-5] + " 123."], SPEC).dense[0])


def test_a_spec_of_another_version_or_an_odd_width_is_refused():
    with pytest.raises(ConfigError, match="slow/9"):
        FeatureSpec(version="slow/9")
    with pytest.raises(ConfigError, match="even"):
        FeatureSpec(n_hashed=7)
    with pytest.raises(ConfigError, match="power of two"):
        FeatureSpec(n_text=1000)
    with pytest.raises(ConfigError, match=r"fast/1.*train the router anew on the same log"):
        FeatureSpec(version="fast/1")
    assert featurize(["a b"], FeatureSpec(n_hashed=0)).dense.shape == (1, len(FeatureSpec(n_hashed=0).names))
