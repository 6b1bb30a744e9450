"""Running the code: a verifier for prompts that show how the function they ask for is to behave.

The tests come from the request's own prompt, so there is no way to hand over a hidden one; those are a grader's
(howhard.training.code_problems). Programs run in a sandbox; how they were isolated stands in `Verdicts.note`.
"""

import asyncio
from collections.abc import Callable, Sequence

from ..base import Candidate, Prices, Request, Verdicts
from ..errors import VerifierError, WorldError
from ..sandbox import Execution, Limits, Sandbox, Tests
from ..sandbox.source import program_of, prompt_tests, task_of
from ..spec import Parts, VerifierFields, restated

_FAILURES_TOLD = 3


class CodeExecution:
    """Score a program by the share of the prompt's own tests that it passes.

    sandbox    : where programs run; default: a new one with its default limits.
    find_tests : reads the tests out of a prompt; default `prompt_tests`: doctest examples, `f(1) == 2`, `assert` lines.

    A prompt without tests is not judged, nor is a partial program. `sound` is False: passing the few tests that a
    prompt shows proves little. `feedback` says which tests failed and how. Equal programs of one call run once. Raises
    ConfigError, when first asked to judge, where no isolation can be had here.
    """

    sound = False
    prices: Prices | None = None  # reads no tokens

    def __init__(
        self,
        *,
        sandbox: Sandbox | None = None,
        find_tests: Callable[[str], Tests | None] = prompt_tests,
        name: str = "code",
    ) -> None:
        self.name = name
        self.sandbox = sandbox or Sandbox()
        self.find_tests = find_tests

    async def score(self, request: Request, candidates: Sequence[Candidate], *, partial: bool = False) -> Verdicts:
        """Run each candidate's program. Raises VerifierError where programs cannot be run."""
        tests = None if partial else self.find_tests(request.text)
        if tests is None or not candidates:
            note = "" if partial or not candidates else "the prompt holds no test"
            return Verdicts((None,) * len(candidates), note=note)
        task = task_of(request.text)
        programs = [program_of(task, c.text) for c in candidates]
        executions = await self._run_all(list(dict.fromkeys(programs)), tests)
        ran = [executions[program] for program in programs]
        return Verdicts(
            tuple(execution.share_passed for execution in ran),
            feedback=tuple(feedback_of(execution) for execution in ran),
            note=f"programs ran in {ran[0].isolation}",
        )

    def close(self) -> None:
        """Give back what the sandbox keeps for the next program."""
        self.sandbox.close()

    async def _run_all(self, programs: Sequence[str], tests: Tests) -> dict[str, Execution]:
        tasks = [asyncio.ensure_future(self.sandbox.run(program, tests)) for program in programs]
        try:
            return dict(zip(programs, await asyncio.gather(*tasks), strict=True))
        except WorldError as exc:
            raise VerifierError(f"verifier {self.name!r} could not run a program: {exc}") from exc
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)  # what was cancelled has been killed by then


def feedback_of(execution: Execution) -> str | None:
    """Say for people and models what failed, at most three tests of it; None where nothing did."""
    failed = [(place, result) for place, result in enumerate(execution.results, 1) if not result.passed]
    if not failed:
        return None
    passed = len(execution.results) - len(failed)
    if len({result.message for _, result in failed}) == 1 and len(failed) == len(execution.results):
        return f"no test passed: {failed[0][1].message}"  # it does not load, or was never reached
    lines = [f"test {place} failed: {result.message}" for place, result in failed[:_FAILURES_TOLD]]
    if len(failed) > _FAILURES_TOLD:
        lines.append(f"and {len(failed) - _FAILURES_TOLD} more")
    return "\n".join([f"{passed} of {len(execution.results)} tests passed", *lines])


class CodeExecutionSpec(VerifierFields, frozen=True, kw_only=True, tag="code"):
    """Runs the answer's program on the tests that the prompt shows; see CodeExecution.

    seconds    : of one program, all its tests together.
    memory_mib : of one program.
    allow      : how programs may be isolated, see Sandbox; "process" does not isolate.
    """

    seconds: float = 5.0
    memory_mib: int = 512
    allow: tuple[str, ...] = ("bubblewrap", "uid")

    def __post_init__(self) -> None:
        with restated():
            self._sandbox()

    def _sandbox(self) -> Sandbox:
        return Sandbox(limits=Limits(seconds=self.seconds, memory=self.memory_mib << 20), allow=self.allow)

    def open(self, name: str, parts: Parts) -> CodeExecution:
        """See VerifierFields."""
        return CodeExecution(sandbox=self._sandbox(), name=name)
