"""Reading programs and tests out of texts: the function that a prompt asks for, its examples, a candidate's code.

Only the prompt is parsed here, and only literals of it are evaluated. A candidate's text is cut by lines and regular
expressions, never parsed: it is compiled in the sandbox.
"""

import ast
import builtins
import re
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from .records import Test, Tests

_LONGEST = 200_000  # characters; of longer texts the rest is not read
_FENCED = re.compile(r"^[ \t]*```[^\n`]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
_DEFINITION = re.compile(r"^(?:async[ \t]+)?def[ \t]+(\w+)[ \t]*\(", re.MULTILINE)
_CODE_BEGINS = re.compile(
    r"^(?:from[ \t]+[\w.]+[ \t]+import\b|import[ \t]+\w[\w., \t]*(?:#.*)?$|(?:async[ \t]+)?def[ \t]+\w+[ \t]*\("
    r"|class[ \t]+\w+[ \t]*[:(]|@\w|\w+[ \t]*=[ \t])",
    re.MULTILINE,
)
_CODE_LINE = re.compile(
    r"(?:async|def|class|import|from|if|elif|else|try|except|finally|with|for|while|return|print|assert|raise|pass|del)\b"
    r"|[#@)\]}'\"]|[A-Za-z_][\w.]*\s*(?:[-+*/%|&]?=|\(|\[|:|,)"
)
_COMPLETION_ENDS = re.compile(r"^(?:def|class|async def|if|print|assert|import|from|#|@|```)", re.MULTILINE)
_ARROW = re.compile(r"\s*(?:#\s*)?(?:={1,3}>?|[-=]+>|[➞→⇒⟹]|(?:should\s+)?returns?\b(?:\s*:)?)\s*", re.IGNORECASE)
_PLAIN_VALUE = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]\w)|(?:None|True|False|true|false)\b")
_VALUE_GOES_ON = re.compile(r"[ \t]*[-+*/%=<>]|[\w'\"]")
_BUILTINS = frozenset(dir(builtins))


@dataclass(frozen=True, slots=True)
class Task:
    """The function that a prompt asks for.

    source  : the prompt's code, which a completion goes on from.
    name    : of the function, the last one that the code defines.
    prelude : the code before that function: imports, helpers.
    """

    source: str
    name: str
    prelude: str


def task_of(prompt: str) -> Task | None:
    """Find the function that a prompt asks for: in its last fenced block that defines one, else in the bare text."""
    prompt = prompt[:_LONGEST]
    sources = [block for block in _FENCED.findall(prompt) if _DEFINITION.search(block)]
    if not sources:
        begin = _CODE_BEGINS.search(prompt)
        sources = [prompt[begin.start() :]] if begin else []
    if not sources:
        return None
    found = list(_DEFINITION.finditer(sources[-1]))
    if not found:
        return None
    return Task(sources[-1], found[-1][1], sources[-1][: found[-1].start()])


def program_of(task: Task | None, text: str) -> str:
    """Read the program out of an answer: a whole function, or a completion of the prompt's.

    1. The last fenced block that defines the function, after the prompt's imports and helpers (defined again there or
       not). Without a task, the last fenced block.
    2. Without fences, the text from its first line of code on, where it defines the function; sentences after it are
       cut.
    3. Else what the text completes: the prompt's code, followed by the text up to the next thing that begins at the
       margin.
    """
    text = text[:_LONGEST]
    blocks = _FENCED.findall(text)
    if task is None:
        return blocks[-1] if blocks else text
    for block in reversed(blocks):
        for form in (block, textwrap.dedent(block)):
            if _defines(form, task.name):
                return f"{task.prelude}\n{form}"
    if not blocks and _defines(text, task.name):
        begin = _CODE_BEGINS.search(text)
        return f"{task.prelude}\n{_without_sentences(text[begin.start() if begin else 0 :])}"
    completion = blocks[-1] if blocks else text
    if completion.strip() and not completion[0].isspace():
        completion = "    " + completion  # a chat template has stripped the first line's indent
    end = _COMPLETION_ENDS.search(completion, 1)
    return f"{task.source.rstrip()}\n{completion[: end.start()] if end else completion}"


def _defines(code: str, name: str) -> bool:
    return re.search(rf"^(?:(?:async[ \t]+)?def[ \t]+{name}[ \t]*\(|{name}[ \t]*=)", code, re.MULTILINE) is not None


def _without_sentences(code: str) -> str:
    """Cut what follows the first line at the margin that does not look like code."""
    lines = code.splitlines()
    for place, line in enumerate(lines):
        if line[:1].strip() and not _CODE_LINE.match(line):
            return "\n".join(lines[:place])
    return code


# ── the prompt's own tests ──────────────────────────────────────────────────────────────────────────────────


def prompt_tests(prompt: str) -> Tests | None:
    """Find the tests that a prompt itself holds; None where it holds none.

    Doctest examples of the function's docstring (`>>> f(1)` and the value below); lines such as `f(1) == 2`,
    `f(1) => 2`, `f(1) returns 2`, with literals on both sides; and `assert` lines, wherever they stand.
    """
    prompt = prompt[:_LONGEST]
    task = task_of(prompt)
    found: dict[Test, None] = {}
    calls: dict[str, None] = {}
    if task is not None:
        words = _docstring(task) or prompt
        for test in (*_doctests(words, task.name), *_equations(words, task.name)):
            found[test] = None
            calls[task.name] = None
    for test, names in _assertions(prompt):
        if task is None or task.name in names:
            found[test] = None
            calls.update(dict.fromkeys([task.name] if task is not None else names))
    if not found:
        return None
    return Tests(tuple(found), tuple(calls), task.prelude if task is not None else "")


def _parsed(source: str, mode: str = "exec") -> ast.AST | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an invalid escape in somebody's prompt
            return ast.parse(source, mode=mode)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _literal(source: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.literal_eval(source)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return False
    return True


def _docstring(task: Task) -> str:
    module = _parsed(task.source)
    if not isinstance(module, ast.Module):
        return ""
    functions = [node for node in module.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    named = [node for node in functions if node.name == task.name]
    return (ast.get_docstring(named[-1]) or "") if named else ""


def _doctests(words: str, name: str) -> Iterator[Test]:
    import doctest  # loads a debugger and unittest, so not before it is needed

    try:
        examples = doctest.DocTestParser().get_examples(words)
    except ValueError:
        return
    for example in examples:
        source = example.source.strip()
        if f"{name}(" not in source or _parsed(source, "eval") is None:
            continue
        for value in (example.want.strip(), example.want.strip().partition("\n")[0].strip()):
            if value and _literal(value):
                yield Test(source, value)
                break


def _equations(words: str, name: str) -> Iterator[Test]:
    words = re.sub(r"^[ \t]*>>>.*$", "", words, flags=re.MULTILINE)
    for match in re.finditer(rf"(?<![\w.]){name}\(", words):
        end = _closed(words, match.end() - 1)
        arrow = _ARROW.match(words, end) if end else None
        if not end or arrow is None:
            continue
        call = words[match.start() : end]
        value = _value(words, arrow.end())
        if value is not None and _called_with_literals(call):
            yield Test(" ".join(call.split()) if "\n" in call else call, value)


def _closed(words: str, start: int) -> int:
    """Return the place after the bracket that closes the one at `start`; 0 where none does."""
    depth, quote = 0, ""
    for place in range(start, min(len(words), start + 2000)):
        char = words[place]
        if quote:
            if char == quote and words[place - 1] != "\\":
                quote = ""
        elif char in "'\"":
            quote = char
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
            if depth == 0:
                return place + 1
    return 0


def _value(words: str, start: int) -> str | None:
    """Return the literal at a place in a text, as Python source."""
    first = words[start : start + 1]
    if first and first in "([{":
        end = _closed(words, start)
        value = words[start:end] if end else ""
    elif first and first in "'\"":
        end = words.find(first, start + 1) + 1
        value = words[start:end] if end else ""
    else:
        match = _PLAIN_VALUE.match(words, start)
        end, value = (match.end(), match[0]) if match else (0, "")
        value = {"true": "True", "false": "False"}.get(value, value)
    if not value or _VALUE_GOES_ON.match(words, end) or not _literal(value):
        return None
    return value


def _called_with_literals(call: str) -> bool:
    expression = _parsed(call, "eval")
    if not isinstance(expression, ast.Expression) or not isinstance(expression.body, ast.Call):
        return False
    arguments = [*expression.body.args, *(keyword.value for keyword in expression.body.keywords)]
    return all(_literal(ast.unparse(argument)) for argument in arguments)


def _assertions(prompt: str) -> Iterator[tuple[Test, list[str]]]:
    for line in prompt.splitlines():
        module = _parsed(line.strip()) if line.strip().startswith("assert ") else None
        statement = module.body[0] if isinstance(module, ast.Module) and len(module.body) == 1 else None
        if not isinstance(statement, ast.Assert):
            continue
        names = [
            node.func.id
            for node in ast.walk(statement.test)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id not in _BUILTINS
        ]
        if not names:
            continue
        test = statement.test
        if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq):
            value = ast.unparse(test.comparators[0])
            if _literal(value):
                yield Test(ast.unparse(test.left), value), names
                continue
        yield Test(line.strip()), names
