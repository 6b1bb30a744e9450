"""On a real MLflow store in SQLite, with traces and assessments that MLflow itself logged."""

import warnings

import numpy as np
import pytest

from howhard.strategies.errors import TableError
from howhard.training import tables
from howhard.training.importers.mlflow_traces import import_traces
from howhard.training.importing import import_source
from howhard.training.matrix import OutcomeMatrix


def chat(text):
    return {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]}


@pytest.fixture
def ask(mlflow_uri, monkeypatch, tmp_path):
    """Logs one trace, as an application would, and what was thought of it; returns its id."""
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow

        mlflow.set_tracking_uri(mlflow_uri)
        mlflow.create_experiment("chat", artifact_location=(tmp_path / "artifacts").as_uri())
        mlflow.set_experiment("chat")

        def trace(inputs, *models, usage=(10, 5), tags=None, fails=False, expected=None, source=None, **feedback):
            try:
                with mlflow.start_span("answer", span_type="CHAIN") as root:
                    root.set_inputs(inputs)
                    for model in models:
                        with mlflow.start_span("call", span_type="CHAT_MODEL") as span:
                            span.set_attribute("mlflow.llm.model", model)
                            total = {"input_tokens": usage[0], "output_tokens": usage[1], "total_tokens": sum(usage)}
                            span.set_attribute("mlflow.chat.tokenUsage", total)
                    root.set_outputs({"choices": [{"message": {"role": "assistant", "content": "42"}}]})
                    if fails:
                        raise RuntimeError("the server is gone")
            except RuntimeError:
                pass
            for key, value in (tags or {}).items():
                mlflow.set_trace_tag(root.trace_id, key, value)
            for name, value in feedback.items():
                mlflow.log_feedback(trace_id=root.trace_id, name=name, value=value, source=source)
            if expected is not None:
                mlflow.log_expectation(trace_id=root.trace_id, name="expected", value=expected)
            return root.trace_id

        yield trace
        mlflow.set_tracking_uri(None)  # what was found would stay on as a setting, and in the environment


def test_traces_become_outcomes_and_those_that_say_no_quality_are_counted(ask, mlflow_uri):
    ask(chat("2 + 2?"), "large", correct=True, expected="4")
    ask(chat("2 + 2?"), "small", correct="no")
    ask(chat("三加三?"), "small", "small", usage=(7, 30), correct=0.5)
    ask(chat("5 + 5?"), "large")
    ask(chat("6 + 6?"), "large", fails=True, correct=True)
    got = import_source("traces:/chat", {"reference": "expected"}, tracking_uri=mlflow_uri)
    matrix = OutcomeMatrix.of(got.outcomes, got.prompts)
    assert matrix.arms == ("large", "small")
    assert sorted(matrix.texts) == ["Be brief.\n2 + 2?", "Be brief.\n三加三?"]
    by_prompt = got.outcomes.set_index(["prompt_id", "arm"])
    sums = tables.prompt_id(chat("2 + 2?")["messages"])
    other = tables.prompt_id(chat("三加三?")["messages"])
    assert by_prompt["quality"].to_dict() == {(sums, "large"): 1, (sums, "small"): 0, (other, "small"): 0.5}
    assert by_prompt.loc[(other, "small")][["prompt_tokens", "completion_tokens"]].tolist() == [14, 60]
    assert by_prompt["latency_s"].notna().all()
    assert by_prompt["answer"].tolist() == ["42"] * 3
    assert not np.isnat(matrix.times).any()
    assert got.prompts.set_index("prompt_id")["reference"][sums] == "4"
    assert got.notes[0].endswith("quality is the assessment 'correct'")
    assert got.notes[1].endswith(
        "of 5 traces, failed or never ended, left out: 1; without the assessment 'correct', left out: 1"
    )


def test_arm_group_and_prompt_can_be_named_by_tags_and_keys(ask, mlflow_uri):
    ask({"question": "why?", "k": 3}, "a", "b", tags={"route": "slow", "tenant": "x"}, good=True)
    got = import_traces("chat", {"prompt": "question", "arm": "route", "group": "tenant"}, uri=mlflow_uri)
    assert got.prompts[["text", "group", "prompt_id"]].iloc[0].tolist() == ["why?", "x", tables.prompt_id("why?")]
    assert got.outcomes["arm"].tolist() == ["slow"]
    assert import_traces("chat", {"prompt": "question"}, uri=mlflow_uri).outcomes["arm"].tolist() == ["a+b"]
    with pytest.raises(
        TableError, match=r"inputs are 'question', 'k': say which is the prompt, as in --map prompt=KEY"
    ):
        import_traces("chat", uri=mlflow_uri)
    with pytest.raises(TableError, match="has no tag 'rout'; did you mean 'route'"):
        import_traces("chat", {"prompt": "question", "arm": "rout"}, uri=mlflow_uri)


def test_several_traces_of_a_prompt_and_arm_are_draws_and_averaged_only_on_wish(ask, mlflow_uri):
    for good in (True, False, True, True):
        ask("why?", "small", good=good)
    ask("why?", "large", good=True)
    raw = import_traces("chat", uri=mlflow_uri)
    assert raw.samples["quality"].tolist() == [1, 0, 1, 1]
    assert any("--average-samples" in note for note in raw.notes)
    mean = import_traces("chat", uri=mlflow_uri, average_samples=True).outcomes.set_index("arm")
    assert mean.loc["small"][["quality", "draws"]].tolist() == [0.75, 4]


def test_people_count_before_models_and_disagreement_is_counted(ask, mlflow_uri):
    import mlflow
    from mlflow.entities import AssessmentSource

    judge, person = AssessmentSource("LLM_JUDGE", "m"), AssessmentSource("HUMAN", "me")
    trace = ask("why?", "small", good=False, source=person)
    mlflow.log_feedback(trace_id=trace, name="good", value=True, source=judge)
    got = import_traces("chat", uri=mlflow_uri)
    assert got.outcomes["quality"].tolist() == [0]
    assert "judged differently by several" in got.notes[1]


def test_what_is_no_quality_is_refused_by_trace_and_value(ask, mlflow_uri):
    with pytest.raises(TableError, match="traces of 'chat': there is none"):
        import_traces("chat", uri=mlflow_uri)
    trace = ask("why?", "small", stars=4, tone="warm")
    with pytest.raises(TableError, match=r"which assessment is the quality.*none that are true, false"):
        import_traces("chat", uri=mlflow_uri)
    with pytest.raises(TableError, match=rf"trace {trace}: assessment 'stars' is 4.*number in \[0, 1\]"):
        import_traces("chat", {"quality": "stars"}, uri=mlflow_uri)
    with pytest.raises(
        TableError, match=r"none can be learned from.*without the assessment 'good'.*there: stars, tone"
    ):
        import_traces("chat", {"quality": "good"}, uri=mlflow_uri)
    ask("how?", good=True)
    with pytest.raises(TableError, match="no span names a model"):
        import_traces("chat", {"quality": "good"}, uri=mlflow_uri)
    with pytest.raises(TableError, match="no experiment 'chap'; did you mean 'chat'"):
        import_traces("chap", uri=mlflow_uri)
    with pytest.raises(TableError, match="'cost' of traces can't be mapped"):
        import_traces("chat", {"cost": "usd"}, uri=mlflow_uri)
