"""Every error that docs/questions.md quotes is one that the program can print."""

import ast
import re
from collections.abc import Iterator
from functools import cache

import pytest

from helpers.processes import ROOT

PAGE = (ROOT / "docs" / "questions.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```text\n(.*?)^```", PAGE, re.S | re.M)
QUOTED = [line for block in BLOCKS for line in block.splitlines()]
ANYTHING = "\0"
LEAST_WORDS = 10
"""Letters that a message must have of its own: else it would match anything."""


def template(node: ast.expr) -> str:
    """A string of the source, with `ANYTHING` for what is put into it."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"%(\.\d+)?[sdfg]", ANYTHING, node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(template, node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return template(node.left) + template(node.right)
    return ANYTHING


@cache
def messages() -> list[re.Pattern[str]]:
    """What the package's strings, filled in, may look like."""

    def templates() -> Iterator[str]:
        for folder in ("gmmpipe", "pipelines/jepa"):
            for path in (ROOT / folder).rglob("*.py"):
                for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                    if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp):
                        yield template(node)

    found = {text for text in templates() if len(re.findall(r"[a-z]", text)) >= LEAST_WORDS}
    return [re.compile(".*".join(map(re.escape, text.split(ANYTHING)))) for text in found]


def test_the_page_quotes_many() -> None:
    assert len(QUOTED) >= 20
    assert all(re.match(r"(error|Error|warning): ", line) for line in QUOTED)


@pytest.mark.parametrize("line", QUOTED)
def test_a_quoted_message_is_one_of_the_program(line: str) -> None:
    text = re.sub(r"^[Ee]rror: ", "", line)
    assert any(message.fullmatch(text) for message in messages()), line
