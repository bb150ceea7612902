"""The Markdown table of bench.py."""

from typing import Any

HEAD = (
    "| benchmark | what | unit | gmmpipe | rival | its figure | times better, or difference |\n"
    "|---|---|---|---|---|---|---|\n"
)


def table(conditions: dict[str, Any], done: list[dict[str, Any]]) -> str:
    """The page: the conditions, a row of each figure, and what is not there."""
    rows = [(line["case"], row) for line in done for row in line["rows"]]
    figures = [(case, row) for case, row in rows if "what" in row]
    body = "".join(map(cells, *zip(*figures, strict=True))) if figures else ""
    return f"# Benchmarks\n\n{head(conditions)}\n\n{HEAD}{body}{notes(done, rows)}"


def head(conditions: dict[str, Any]) -> str:
    """The conditions in words."""
    corpus, packages = conditions["corpus"], conditions["packages"]
    versions = ", ".join(f"{name} {version}" for name, version in packages.items())
    gpu, memory = conditions["gpu"] or "no GPU", f"{conditions['memory_gb']} GB"
    said = [
        f"gmmpipe {conditions['gmmpipe']}, commit {conditions['commit'] or 'unknown'}; "
        f"{conditions['processor']}, {conditions['cores']} cores, {memory}, {gpu}; "
        f"{conditions['system']}; Python {conditions['python']}, {versions}.",
        f"A corpus of {corpus['utterances']} utterances, SHA-256 {corpus['sha256'][:12]} of its "
        "manifests. A figure of *times better* above 1 is in favour of gmmpipe; a difference, with "
        "its sign, is gmmpipe's figure less the rival's.",
    ]
    if conditions["quick"]:
        said.append("**A trial with `--quick`: the figures say nothing.**")
    return "\n\n".join(said)


def cells(case: str, row: dict[str, Any]) -> str:
    """A row."""
    theirs = "" if row["theirs"] is None else f"{row['theirs']:.4g}"
    values = (case, row["what"], row["unit"], f"{row['ours']:.4g}", row["rival"], theirs)
    return f"| {' | '.join(values)} | {comparison(row)} |\n"


def comparison(row: dict[str, Any]) -> str:
    """How much better our figure is, or by what it differs."""
    ours, theirs = row["ours"], row["theirs"]
    if theirs is None:
        return ""
    if row["better"] == "difference":
        return f"{ours - theirs:+.3g}"
    above, below = (theirs, ours) if row["better"] == "less" else (ours, theirs)
    return f"{above / below:.2f}" if below else ""


def notes(done: list[dict[str, Any]], rows: list[tuple[str, dict[str, Any]]]) -> str:
    """Rivals that were left out, and scripts that give no figures."""
    missing = sorted({row["missing"] for _, row in rows if "missing" in row})
    said = [f"{name} is not installed: `pip install 'gmmpipe[bench]'`" for name in missing]
    said += [
        f"{line['case']} gives no rows: see bench.work/{line['case']}/printed.txt"
        for line in done
        if not line["rows"]
    ]
    return "\n" + "".join(f"- {line}\n" for line in said) if said else ""
