"""A JSON schema as a verifier, and how JSON is read out of a text.

It proves that a text has a form, not that it is right: `sound` is False unless the user says that the form is the
whole task.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..base import Candidate, Prices, Request, Verdicts
from ..errors import ConfigError, VerifierError
from ..spec import Parts, VerifierFields

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

_FENCE = re.compile(r"```[ \t]*(?:json)?[ \t]*\n(.*?)\n[ \t]*```", re.DOTALL | re.IGNORECASE)


def read_json(text: str) -> Any:
    """Parse the JSON that a text is, or the only fenced block of it; NaN and Infinity are no JSON.

    Raises ValueError with what is wrong.
    """
    blocks = _FENCE.findall(text)
    if len(blocks) > 1:
        raise ValueError(f"it holds {len(blocks)} fenced blocks: which one is the answer is not clear")
    try:
        return json.loads(blocks[0] if blocks else text, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _no_constant(word: str) -> object:
    raise ValueError(f"{word} is no JSON")


class JsonSchemaCheck:
    """Score 1 for a text whose JSON fits a schema, 0 for another; the feedback says what does not fit.

    schema : a JSON schema (any draft that its `$schema` names; 2020-12 without one), as a mapping or as JSON.
    sound  : say True where fitting the schema is the whole task.

    The text is JSON as a whole, or holds one fenced block of it. References to other documents are not fetched.
    Partial texts are not judged. Needs the extra `json` (jsonschema). Raises ConfigError for what is no schema.
    """

    prices: Prices | None = None  # reads no tokens

    def __init__(self, schema: Mapping[str, object] | str, *, sound: bool = False, name: str = "json_schema") -> None:
        if isinstance(schema, str):
            try:
                schema = json.loads(schema)
            except ValueError as exc:
                raise ConfigError(f"schema is not JSON: {exc}") from exc
        self.name, self.sound, self.schema = name, sound, schema
        self._validator = _validator(schema)

    async def score(self, request: Request, candidates: Sequence[Candidate], *, partial: bool = False) -> Verdicts:
        """Check each text."""
        if partial:
            return Verdicts((None,) * len(candidates))
        faults = [self._fault(c.text) for c in candidates]
        return Verdicts(tuple(float(fault is None) for fault in faults), sound=self.sound, feedback=tuple(faults))

    def _fault(self, text: str) -> str | None:
        from jsonschema.exceptions import best_match
        from referencing.exceptions import Unresolvable

        try:
            value = read_json(text)
        except ValueError as exc:
            return f"not JSON: {exc}"
        try:
            error = best_match(self._validator.iter_errors(value))
        except Unresolvable as exc:
            raise VerifierError(f"{self.name!r}: the schema refers to {exc.ref!r}, which it does not hold") from exc
        except RecursionError:
            return "it is nested too deeply"
        return None if error is None else f"at {error.json_path}: {error.message[:300]}"


def _validator(schema: object) -> "Validator":
    try:
        import jsonschema
        from jsonschema_specifications import REGISTRY
    except ImportError as exc:
        raise ConfigError(
            "a JSON schema needs jsonschema, which is not installed: pip install 'howhard[json]'"
        ) from exc
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)  # type: ignore[arg-type]
    try:
        kind.check_schema(schema)  # type: ignore[arg-type]
    except jsonschema.SchemaError as exc:
        raise ConfigError(f"schema is no JSON schema: at {exc.json_path}: {exc.message[:300]}") from exc
    return kind(schema, registry=REGISTRY)  # type: ignore[arg-type]  # a given registry fetches nothing


class JsonSchemaCheckSpec(VerifierFields, frozen=True, kw_only=True, tag="json_schema"):
    """A JSON schema; see JsonSchemaCheck. In TOML it is a table, or a string of JSON."""

    schema: dict[str, object] | str
    sound: bool = False

    def open(self, name: str, parts: Parts) -> JsonSchemaCheck:
        """See VerifierFields."""
        return JsonSchemaCheck(self.schema, sound=self.sound, name=name)
