"""The site of the documentation is built without a warning, and has what readers look for."""

import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import gmmpipe
from helpers.processes import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as ``make docs`` builds it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet"]
    folders = [ROOT / "docs", folder]
    done = subprocess.run(
        [*command, "-d", folder / ".doctrees", *folders], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder


class Loaded(HTMLParser):
    """What a page loads when it is opened."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        named = dict(attributes)
        if tag in ("img", "script", "source", "iframe"):
            self.targets.append(named.get("src") or "")
        elif tag == "link" and named.get("rel") == "stylesheet":
            self.targets.append(named.get("href") or "")


def test_every_page_is_there_and_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = sorted((ROOT / "docs").glob("*.md"))
    assert len(pages) >= 15
    for page in pages:
        text = (site / page.with_suffix(".html").name).read_text(encoding="utf-8")
        loaded = [target for target in Loaded(text).targets if target]
        assert loaded
        assert not [target for target in loaded if target.startswith(("http", "//"))]


def test_every_public_name_has_its_docstring_on_the_python_page(site: Path) -> None:
    page = (site / "api.html").read_text(encoding="utf-8")
    names = [name for name in gmmpipe.__all__ if name != "__version__"]
    assert [name for name in names if f'id="gmmpipe.{name}"' not in page] == []


def test_the_search_finds_options_and_functions(site: Path) -> None:
    text = (site / "searchindex.js").read_text(encoding="utf-8")
    index = json.loads(text[text.index("{") : text.rindex("}") + 1])
    names = index["docnames"]
    for word, page in (("var_floor", "fitting"), ("soft_assign", "api"), ("slurm", "scaling")):
        found = index["terms"][word]
        found = found if isinstance(found, list) else [found]
        assert page in [names[number] for number in found]
