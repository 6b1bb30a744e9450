"""Every exception that howhard raises on purpose.

    HowhardError
    ├── InputError            the user's: a wrong value, file, column or setting      (exit code 2)
    │   ├── ConfigError       a setting that is unknown, mistyped or out of range
    │   ├── TableError        a table with a missing, mistyped or impossible column
    │   ├── ArtifactError     a router directory that is damaged, tampered with or of another schema
    │   ├── PromptTooLong     the prompt does not fit the backend's context
    │   └── NoFeasibleArm     no arm keeps the objective's hard limits
    └── WorldError            the world's: a server, a disk, a deadline               (exit code 1)
        ├── BackendError      a backend answered with an error, or with nonsense
        │   ├── BackendUnreachable
        │   ├── BackendTimeout
        │   └── ModelNotServed
        └── VerifierError     a verifier raised, or returned something that is not a score

A message names the field, the value that was found, and the next thing to try. An exception of another
library is translated at the edge where it came in, and kept as the cause.
"""

import difflib
from collections.abc import Iterable


class HowhardError(Exception):
    """The root of everything that howhard raises on purpose."""


class InputError(HowhardError):
    """What the caller gave cannot be used; nothing was done."""


class ConfigError(InputError):
    """A setting is unknown, mistyped or out of range."""


class TableError(InputError):
    """A table lacks a column, or a column holds something impossible."""


class ArtifactError(InputError):
    """A router directory is damaged, was changed after it was written, or has another schema."""


class PromptTooLong(InputError):
    """The prompt (and the answer asked for) does not fit the backend's context window."""


class NoFeasibleArm(InputError):
    """No arm keeps the objective's hard limits."""


class WorldError(HowhardError):
    """Something outside this program failed; trying again later may help."""


class BackendError(WorldError):
    """A backend answered with an error, or with something that is not an answer."""


class BackendUnreachable(BackendError):
    """No connection to the backend could be made."""


class BackendTimeout(BackendError):
    """The backend did not answer in time."""


class ModelNotServed(BackendError):
    """The server is there, but it does not serve the model that was asked for."""


class VerifierError(WorldError):
    """A verifier raised, or returned something that is not a score in [0, 1]."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `"; did you mean 'x'?"` for the nearest known word, or the list of the known words."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(known)}" if known else ""
