"""MLflow traces with their assessments: what people log already, as outcomes.

A trace is one row. Its prompt are the inputs of the root span; its arm is the model that its spans name (several
models make an arm of their own, "large+small"); tokens, cost and latency are those that MLflow keeps of the whole
trace; its quality is one named assessment: true or false, yes or no (as MLflow's judges answer), or a number in [0, 1].
Traces that say no quality, or that failed, are left out and counted, never taken for zero.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pandas as pd

from ...strategies.errors import InputError, TableError, nearest
from ..tracking import resolve_uri, store, without_password
from .imported import FIELDS, Imported, split_rows
from .long import as_stored

if TYPE_CHECKING:
    from mlflow.entities import Assessment, Trace

MAPPED: Mapping[str, str] = {
    "quality": "name of the assessment; needed where traces have several",
    "reference": "name of an expectation that holds the right answer",
    "prompt": "key of the root span's inputs; needed where they have several",
    "arm": "tag or metadata key of the trace; default: the model that its spans name",
    "group": "tag or metadata key; default: the experiment's name",
    "cluster": "tag or metadata key",
    "prompt_id": "tag or metadata key; default: a hash of the prompt",
}
"""What --map means for traces: field -> name."""

_PAGE = 200
_WORDS = {"yes": 1.0, "no": 0.0}
_RANKS = {"HUMAN": 0, "CODE": 1}
"""Whose word counts where several judged the same trace: people, then code, then models."""


def import_traces(
    experiment: str,
    mapping: Mapping[str, str] | None = None,
    *,
    uri: str | None = None,
    average_samples: bool = False,
) -> Imported:
    """Read all traces of an experiment.

    mapping : see MAPPED.
    average_samples : several traces of one prompt and arm are draws of it, and become their mean; without it they
        become the samples table.

    Raises TableError for an experiment that is not there or has no trace, an assessment that no trace has, and a
    trace (by its id) whose inputs, arm or assessment can't be read; WorldError when the store can't be.
    """
    mapping = mapping or {}
    for name, of in mapping.items():
        if name not in MAPPED:
            known = f"{name!r} of traces can't be mapped" if name in FIELDS else f"no field is called {name!r}"
            raise TableError(f"mapping {name}={of}: {known}{nearest(name, MAPPED)}")
    uri = resolve_uri(uri)
    where = f"MLflow at {without_password(uri)}, traces of {experiment!r}"
    with store(uri) as client:
        found = client.get_experiment_by_name(experiment)
        if found is None:
            there = [e.name for e in client.search_experiments()]
            raise TableError(
                f"MLflow at {without_password(uri)}: no experiment {experiment!r}{nearest(experiment, there)}"
            )
        traces = list(_traces(client, found.experiment_id))
    if not traces:
        raise TableError(f"{where}: there is none")
    assessment = mapping.get("quality") or _only_assessment(where, traces)
    counts: Counter[str] = Counter()
    rows = [row for trace in traces if (row := _row(where, trace, assessment, mapping, counts)) is not None]
    if not rows:
        names = sorted({a.name for trace in traces for a in trace.info.assessments})
        raise TableError(
            f"{where}: of {len(traces)} traces none can be learned from ({_told(counts)}); assessments there: "
            f"{', '.join(names) or 'none'}"
        )
    frame = pd.DataFrame(rows).sort_values("time", kind="stable", ignore_index=True)
    frame["sample_index"] = frame.groupby(["prompt_id", "arm"]).cumcount()
    notes = [f"{where}: quality is the assessment {assessment!r}"]
    if counts:
        notes.append(f"{where}: of {len(traces)} traces, {_told(counts)}")
    return split_rows(where, frame, group=experiment, notes=notes, average_samples=average_samples)


def _traces(client: Any, experiment_id: str) -> "Iterator[Trace]":
    token = None
    while True:
        page = client.search_traces(locations=[experiment_id], max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _only_assessment(where: str, traces: "list[Trace]") -> str:
    """The one name that all usable assessments bear."""
    judged = [(a.name, a.feedback) for trace in traces for a in trace.info.assessments]
    names = sorted({name for name, feedback in judged if feedback and _quality(feedback.value) is not None})
    if len(names) != 1:
        raise TableError(
            f"{where}: which assessment is the quality? Give --map quality=NAME; there are "
            f"{', '.join(names) or 'none that are true, false, yes, no or a number in [0, 1]'}"
        )
    return names[0]


def _row(
    where: str, trace: "Trace", assessment: str, mapping: Mapping[str, str], counts: Counter[str]
) -> dict[str, Any] | None:
    """A trace as a row of FIELDS; None, and counted, where there is nothing to learn."""
    info = trace.info
    if str(getattr(info.state, "value", info.state)) != "OK":
        counts["failed or never ended, left out"] += 1
        return None
    quality = _judged(where, info.trace_id, info.assessments, assessment, counts)
    if quality is None:
        return None
    told = {**info.trace_metadata, **info.tags}
    usage = info.token_usage or {}
    row = {
        **_prompt(where, trace, mapping.get("prompt")),
        "time": datetime.fromtimestamp(info.request_time / 1000, UTC),
        "arm": _told_by(where, info.trace_id, told, mapping["arm"]) if "arm" in mapping else _models(where, trace),
        "quality": quality,
        "prompt_tokens": usage.get("input_tokens"),
        "cached_tokens": usage.get("cache_read_input_tokens"),
        "completion_tokens": usage.get("output_tokens"),
        "cost": (info.cost or {}).get("total_cost"),
        "latency_s": None if info.execution_duration is None else info.execution_duration / 1000,
        "answer": _answer(trace),
        "reference": _expected(info.assessments, mapping.get("reference")),
    }
    for name in ("group", "cluster", "prompt_id"):
        if name in mapping:
            row[name] = _told_by(where, info.trace_id, told, mapping[name])
    for name in ("prompt_tokens", "cached_tokens", "completion_tokens", "cost", "latency_s"):
        if row[name] is not None and not row[name] >= 0:
            raise TableError(f"{where}: trace {info.trace_id}: {name}={row[name]!r}: negative. Delete the trace")
    return row


def _judged(
    where: str, trace_id: str, assessments: "list[Assessment]", name: str, counts: Counter[str]
) -> float | None:
    """The quality that the assessment says; the latest of the most trusted source where there are several."""
    named = [a for a in assessments if a.name == name and a.valid is not False]
    held = []
    for one in named:
        judgement = one.feedback or one.expectation
        if judgement is None or getattr(judgement, "error", None) is not None or judgement.value is None:
            continue
        quality = _quality(judgement.value)
        if quality is None:
            raise TableError(
                f"{where}: trace {trace_id}: assessment {name!r} is {judgement.value!r}: true, false, yes, no or a "
                "number in [0, 1] is needed. Name another assessment, or log one on this scale"
            )
        held.append((_RANKS.get(str(one.source.source_type), 2), -(one.last_update_time_ms or 0), quality))
    if not held:
        counts[f"{'without a value of' if named else 'without'} the assessment {name!r}, left out"] += 1
        return None
    if len({quality for *_, quality in held}) > 1:
        counts["judged differently by several, where people count before code and code before models"] += 1
    return min(held)[2]


def _quality(value: object) -> float | None:
    if isinstance(value, str):
        return _WORDS.get(value.strip().lower())
    if isinstance(value, bool):
        return float(value)
    return float(value) if isinstance(value, int | float) and 0 <= value <= 1 else None


def _expected(assessments: "list[Assessment]", name: str | None) -> str | None:
    for one in assessments:
        if name is not None and one.name == name and one.expectation is not None:
            value = one.expectation.value
            return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return None


def _prompt(where: str, trace: "Trace", key: str | None) -> dict[str, Any]:
    """Text, messages and id of what the root span was given."""
    spans = [span for span in trace.data.spans if span.parent_id is None]
    inputs: Any = spans[0].inputs if spans else None
    at = f"{where}: trace {trace.info.trace_id}"
    if isinstance(inputs, dict):
        chosen = key or ("messages" if "messages" in inputs else next(iter(inputs)) if len(inputs) == 1 else None)
        if chosen is None or chosen not in inputs:
            raise TableError(
                f"{at}: its inputs are {', '.join(map(repr, inputs)) or 'empty'}"
                f"{'' if key is None else f', none is {key!r}'}: say which is the prompt, as in --map prompt=KEY"
            )
        inputs = inputs[chosen]
    if isinstance(inputs, str) and inputs.strip():
        return {"prompt": inputs, "messages": None, "prompt_id": as_stored([_user(inputs)])[2]}
    if isinstance(inputs, list) and inputs:
        try:
            text, messages, prompt_id = as_stored([_plain(message) for message in inputs])
        except InputError as exc:
            raise TableError(f"{at}: {exc}") from exc
        return {"prompt": text, "messages": messages, "prompt_id": prompt_id}
    raise TableError(f"{at}: the prompt is {inputs!r:.80}: text or chat messages are needed. Delete the trace")


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _plain(message: Any) -> Any:
    """A message with the text of its parts; pictures and sounds say nothing to a router."""
    if not isinstance(message, dict):
        return message
    content = message.get("content")
    if isinstance(content, list):
        texts = [part.get("text", "") for part in content if isinstance(part, dict)]
        content = "\n".join(text for text in texts if isinstance(text, str) and text)
    return {"role": message.get("role"), "content": content or ""}


def _models(where: str, trace: "Trace") -> str:
    names = {span.model_name for span in trace.data.spans} - {None, ""}
    if not names:
        raise TableError(
            f"{where}: trace {trace.info.trace_id}: no span names a model (mlflow.llm.model). Say which tag names "
            "the arm, as in --map arm=TAG"
        )
    return "+".join(sorted(map(str, names)))


def _told_by(where: str, trace_id: str, told: Mapping[str, str], key: str) -> str:
    if not told.get(key):
        raise TableError(
            f"{where}: trace {trace_id} has no tag {key!r}{nearest(key, told)}. Set it, or delete the trace"
        )
    return told[key]


def _answer(trace: "Trace") -> str | None:
    """The root span's output, where it is text or one chat completion."""
    spans = [span for span in trace.data.spans if span.parent_id is None]
    outputs: Any = spans[0].outputs if spans else None
    if isinstance(outputs, dict) and isinstance(choices := outputs.get("choices"), list) and choices:
        message = choices[0].get("message") if isinstance(choices[0], dict) else None
        outputs = message.get("content") if isinstance(message, dict) else None
    return outputs if isinstance(outputs, str) else None


def _told(counts: Counter[str]) -> str:
    return "; ".join(f"{what}: {count}" for what, count in counts.items())
