"""The text of a mixture's model card."""

from typing import Any

_TEXT = """\
# A diagonal Gaussian mixture of {K} components

{K} components over frames of {dim} dimensions, fitted with gmmpipe.

## Load

```python
# pip install "gmmpipe[hub]"
from gmmpipe import GradientGMM

gmm = GradientGMM.from_pretrained({name!r})
gmm.assign(frames)  # the most likely component of each frame; frames [N, {dim}]
gmm.soft_assign(frames)  # posteriors [N, {K}]
gmm.score_samples(frames)  # ln p(frame) in nats
```

## Fit

{fit}

## Frames

{features}

## Evaluation

{figures}
"""


def card_text(content: dict[str, Any], figures: dict[str, Any], name: str) -> str:
    """The card, without its YAML.

    Args:
        content: a model file's content.
        figures: those of `evaluate`; may be empty.
        name: what `from_pretrained` is to be given.
    """
    fit = {"K": content["K"], "D": content["dim"]}
    names = {"frames": "frames fitted", "var_floor": "var_floor", "seed": "seed"}
    fit |= {there: content[here] for here, there in names.items() if here in content}
    features = content.get("features")
    return _TEXT.format(
        K=content["K"],
        dim=content["dim"],
        name=name,
        fit=_table(fit),
        features=_table(features) if isinstance(features, dict) else "Not known.",
        figures=_evaluated(figures) if figures else "None given.",
    )


def _evaluated(figures: dict[str, Any]) -> str:
    return f"By `gmmpipe evaluate`; likelihoods and entropies in nats a frame.\n\n{_table(figures)}"


def _table(values: dict[str, Any]) -> str:
    rows = [f"| {name} | {_shown(value)} |" for name, value in values.items()]
    return "\n".join(["| | |", "|---|---|", *rows])


def _shown(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return " ".join(text.replace("|", "\\|").split())
