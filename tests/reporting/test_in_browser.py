"""The report in a real browser: nothing comes from a network, and all is seen, heard, and fits."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from gmmpipe import ReportOptions, report
from helpers.making import fit_here

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no chromium here")
NO_SOURCES = "default-src 'none'"
PROBE = """
<script>
addEventListener("load", async () => {
  const heard = [...document.querySelectorAll("audio")].map(audio => new Promise(done => {
    const say = () => done(audio.duration);
    audio.readyState > 0 ? say() : audio.addEventListener("loadedmetadata", say);
    audio.addEventListener("error", () => done(-1));
    audio.load();
  }));
  const seen = [...document.querySelectorAll("figure svg, figure img")];
  document.title = "found " + JSON.stringify({
    durations: await Promise.all(heard),
    pictures: seen.map(picture => picture.getBoundingClientRect()).map(at => [at.width, at.height]),
    resources: performance.getEntriesByType("resource").map(entry => entry.name.slice(0, 5)),
    width: document.documentElement.scrollWidth,
    window: innerWidth,
    background: getComputedStyle(document.body).backgroundColor,
    ink: getComputedStyle(document.body).color,
  });
});
</script>
"""


@pytest.fixture(scope="module")
def page(audio_stores: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report, with a script that says what the browser has made of it."""
    folder = tmp_path_factory.mktemp("browser")
    fit_here(audio_stores["tar"], folder)
    made = report(ReportOptions(folder))
    probed = folder / "probed.html"
    allowed = made.read_text().replace(NO_SOURCES, f"{NO_SOURCES}; script-src 'unsafe-inline'")
    assert NO_SOURCES in allowed, "the page itself forbids what is not in it"
    probed.write_text(allowed.replace("</body>", f"{PROBE}</body>"))
    return probed


def found(page: Path, width: int, profile: Path, *options: str) -> dict:
    command = [
        *(str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"),
        *(f"--user-data-dir={profile}", f"--window-size={width},900", "--virtual-time-budget=9000"),
        *("--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr"),
        *options,
    ]
    done = subprocess.run(
        [*command, page.as_uri()], capture_output=True, text=True, timeout=120, check=False
    )
    assert "CONSOLE" not in done.stderr, done.stderr
    said = re.search(r"<title>found (.*?)</title>", done.stdout, re.S)
    assert said, done.stderr
    return json.loads(said[1].replace("&quot;", '"').replace("&amp;", "&"))


@pytest.mark.parametrize("width", [1300, 500])
def test_all_is_seen_and_heard_and_nothing_is_wider_than_the_window(
    page: Path, width: int, tmp_path: Path
) -> None:
    """500 is the narrowest window that the browser makes."""
    there = found(page, width, tmp_path / "profile")
    assert len(there["pictures"]) >= 12
    assert all(min(size) > 100 for size in there["pictures"] if size[0])
    assert sum(size[0] > 0 for size in there["pictures"]) >= 12
    assert len(there["durations"]) == 5
    assert all(0.2 < duration < 16 for duration in there["durations"])
    assert set(there["resources"]) <= {"data:"}
    assert there["width"] <= there["window"]


def test_ink_and_paper_change_places_in_the_dark(page: Path, tmp_path: Path) -> None:
    def lightness(color: str) -> float:
        return sum(map(float, re.findall(r"[\d.]+", color)[:3])) / 765

    light = found(page, 1300, tmp_path / "light")
    dark = found(page, 1300, tmp_path / "dark", "--force-dark-mode")
    assert lightness(light["background"]) > 0.8 > 0.4 > lightness(light["ink"])
    assert lightness(dark["background"]) < 0.2 < 0.6 < lightness(dark["ink"])
