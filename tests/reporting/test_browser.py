"""The page in a real headless Chromium: what it shows, plays and loads."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from gmmpipe import ReportOptions, report
from helpers.making import fit_here

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt install chromium")

PROBE = """<script>
addEventListener("load", async () => {
  const sounds = [...document.querySelectorAll("audio")];
  await Promise.all(sounds.map(sound => sound.readyState > 0 || sound.error ? 0 :
    new Promise(done => { sound.onloadedmetadata = sound.onerror = done; })));
  const found = {
    loaded: performance.getEntriesByType("resource").map(entry => entry.name.slice(0, 40)),
    widths: [innerWidth, document.documentElement.scrollWidth],
    pictures: [...document.querySelectorAll("[role=img] svg")].map(
      svg => [svg.getBoundingClientRect().width, svg.getBoundingClientRect().height]),
    seconds: sounds.map(sound => sound.duration),
    colors: ["backgroundColor", "color"].map(name => getComputedStyle(document.body)[name]),
  };
  parent.postMessage(JSON.stringify(found), "*");
});
</script></body>"""
FRAME = """<!DOCTYPE html><meta name="color-scheme" content="light dark"><body>
<iframe src="probed.html" style="border: 0; height: 800px; width: WIDTHpx"></iframe><script>
addEventListener("message", message => {
  document.body.innerHTML = "<pre></pre>";
  document.querySelector("pre").textContent = message.data;
});
</script></body>"""
"""A window has no fewer than 500 pixels, but a frame may."""


def chromium(page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Load a page, and print it as it is then; what it logs is on stderr."""
    command = [
        *(str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"),
        *(f"--user-data-dir={page.parent / 'profile'}", "--disable-background-networking"),
        *("--enable-logging=stderr", "--virtual-time-budget=20000", *options, page.as_uri()),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)


@pytest.fixture(scope="module")
def page(audio_stores: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a fit to a store with audio."""
    folder = tmp_path_factory.mktemp("browser")
    fit_here(audio_stores["tar"], folder / "fit")
    return report(ReportOptions(folder / "fit"))


def probed(page: Path, width: int, *options: str) -> dict[str, Any]:
    """What a script finds in a copy of the page that allows one, at a width in CSS pixels."""
    text = page.read_text(encoding="utf-8")
    text = text.replace("default-src 'none'", "script-src 'unsafe-inline'")
    page.with_name("probed.html").write_text(text.replace("</body>", PROBE), encoding="utf-8")
    frame = page.with_name("frame.html")
    frame.write_text(FRAME.replace("WIDTH", str(width)), encoding="utf-8")
    done = chromium(frame, "--window-size=1400,900", *options)
    found = re.search(r"<pre>(\{.*?\})</pre>", done.stdout, re.DOTALL)
    assert found, "the probe has said nothing"
    return dict(json.loads(unescape(found[1])))


@pytest.mark.parametrize("width", [390, 1200])
def test_it_fits_plays_and_loads_nothing(width: int, page: Path) -> None:
    found = probed(page, width)
    inner, needed = found["widths"]
    assert inner == width
    assert needed <= inner, "nothing to scroll sideways"
    assert len(found["pictures"]) == 12
    assert all(min(size) > 100 for size in found["pictures"])
    assert len(found["seconds"]) == 5
    assert all(0.5 < seconds <= 10.01 for seconds in found["seconds"])
    assert all(name.startswith("data:") for name in found["loaded"])


def test_dark_pages_have_other_colours(page: Path) -> None:
    light, dark = (
        probed(page, 1200, f"--blink-settings=preferredColorScheme={scheme}")["colors"]
        for scheme in (1, 0)
    )
    assert light[0] == "rgb(255, 255, 255)"
    assert light != dark
    assert light[1] != dark[1]


def test_it_logs_no_error(page: Path) -> None:
    done = chromium(page)
    assert "Every number" in done.stdout
    assert "CONSOLE" not in done.stderr, done.stderr
