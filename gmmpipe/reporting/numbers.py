"""Every number of a report, with how to read it and what would be worrying."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from gmmpipe.reporting.fit_result import FitResult
from gmmpipe.reporting.sample import Usage
from gmmpipe.reporting.store_facts import StoreFacts

Numbers = dict[str, float]
_FEW_FRAMES = 200


@dataclass(frozen=True)
class Row:
    """A number of the table.

    Args:
        name: as ``metrics.tsv`` or `gmmpipe evaluate` has it.
        value: as text.
        reading: how to read it.
        worry: what would be worrying.
        is_worrying: whether it is.
    """

    name: str
    value: str
    reading: str
    worry: str
    is_worrying: bool


@dataclass(frozen=True)
class Table:
    """Rows that were measured on the same thing."""

    title: str
    rows: list[Row]


@dataclass(frozen=True)
class _Rule:
    """What is known of a number, whatever its value.

    Args:
        reading, worry: as in `Row`.
        worries: whether the numbers of its table, among them K, are worrying in this one.
        of_mixtures: whether it says nothing of k-means.
    """

    reading: str
    worry: str = "–"
    worries: Callable[[Numbers], bool] | None = None
    of_mixtures: bool = False


_USAGE_RULES = {
    "nll": _Rule(
        "Mean -ln p(x), nats a frame: lower is better. Compare it on the same frames only.",
        "NaN, or above that of an earlier fit with fewer components.",
        lambda n: not math.isfinite(n["nll"]),
    ),
    "alive": _Rule(
        "Components that are some frame's most likely one.",
        "Below 90 % of K: more components than the data or the seeding supports.",
        lambda n: n["alive"] < 0.9 * n["K"] and n["sampled"] >= 50 * n["K"],
    ),
    "posterior_entropy": _Rule(
        "Mean entropy of p(k|x), nats: how undecided a frame is. 0 is a hard choice.",
        "Above half of ln K: components overlap so much that labels mean little.",
        lambda n: n["K"] > 1 and n["posterior_entropy"] > 0.5 * math.log(n["K"]),
    ),
    "uncertain_share": _Rule(
        "Share of the frames whose posterior entropy is above 1 bit.",
        "Above 0.5: prefer soft labels (label --top_k), or fewer components.",
        lambda n: n["uncertain_share"] > 0.5,
    ),
    "usage_entropy": _Rule(
        "Entropy of the components' shares of the frames over ln K: 1 where all are used evenly.",
        "Below 0.8: a few components take most frames (silence, often).",
        lambda n: n["usage_entropy"] < 0.8 and n["sampled"] >= 50 * n["K"],
    ),
}

METRIC_RULES = {
    "frames": _Rule("Frames of all finished updates, repeated epochs included."),
    "update": _Rule("Finished updates."),
    "avg_loss": _Rule(
        "Mean of the losses within the update, nats a frame, while the mixture moved.",
        "NaN, or far above nll after many updates: --lr is too high.",
        lambda n: not math.isfinite(n["avg_loss"]),
    ),
    **_USAGE_RULES,
    "balance_cv": _Rule(
        "Standard deviation of the alive components' frame counts over their mean; 0 is even.",
        "Above 2: a few components take most frames.",
        lambda n: n["balance_cv"] > 2,
    ),
    "weight_entropy": _Rule(
        "Entropy of the weights over ln K: 1 where all are equal.",
        "Below 0.8: much of the mixture is hardly used.",
        lambda n: n["weight_entropy"] < 0.8,
        of_mixtures=True,
    ),
    "mean_delta": _Rule(
        "How far a mean's value moved in the update, on average.",
        "Above half of √avg_var in the last update: the fit has not settled; give it more frames.",
        lambda n: n["mean_delta"] > 0.5 * math.sqrt(n["avg_var"]),
    ),
    "var_delta": _Rule(
        "How much a variance changed in the update, on average.",
        "Above half of avg_var in the last update: the fit has not settled.",
        lambda n: n["var_delta"] > 0.5 * n["avg_var"],
        of_mixtures=True,
    ),
    "avg_var": _Rule(
        "Mean of all variances.", "Close to the floor: see variances_at_floor.", of_mixtures=True
    ),
    "min_var": _Rule(
        "The smallest variance; at the floor where a component sits on constant frames.",
        of_mixtures=True,
    ),
    "max_var": _Rule(
        "The largest variance.",
        "Above 1000 times avg_var: a component has run away, or collects what fits nowhere.",
        lambda n: n["max_var"] > 1000 * n["avg_var"],
        of_mixtures=True,
    ),
    "inter_cluster_dist": _Rule(
        "Mean Euclidean distance of pairs of means.",
        "Its square below intra_cluster_dist: components lie on top of each other.",
        lambda n: n["K"] > 1 and n["inter_cluster_dist"] ** 2 < n["intra_cluster_dist"],
    ),
    "intra_cluster_dist": _Rule("Mean squared distance of a frame to its components' means."),
    "inertia": _Rule(
        "Mean squared distance of a frame to its nearest centre: what k-means minimises."
    ),
    "eval_nll": _Rule(
        "nll of the held-out frames, the same after each update.",
        "More than 0.1 above its best: over-fitting; or more than 5 above nll: too many components "
        "for the data, or other speech.",
        lambda n: n["eval_nll"] > min(n["best_eval_nll"] + 0.1, n["nll"] + 5),
    ),
}

SAMPLE_RULES = {
    "frames": _Rule("Frames of the sample that this table is of."),
    **_USAGE_RULES,
    "nll_stderr": _Rule("Standard error of nll, as if frames were independent."),
    "usage_perplexity": _Rule(
        "How many evenly used components would be as varied as these: at most alive.",
        "Below a third of K: a few components take most frames.",
        lambda n: n["usage_perplexity"] < n["K"] / 3 and n["sampled"] >= 50 * n["K"],
    ),
    "max_posterior": _Rule(
        "Mean of the largest posterior: how sure the labels are.",
        "Below 0.5: hard labels lose most of what the mixture says.",
        lambda n: n["max_posterior"] < 0.5,
    ),
    "em_gap": _Rule(
        "How much one exact EM step on these frames would lower nll; near 0 at a maximum.",
        "Above 1: the fit is not done (more updates), or these are other frames than were fitted.",
        lambda n: n["em_gap"] > 1,
        of_mixtures=True,
    ),
    "label_agreement": _Rule(
        "Share of neighbouring frames of an utterance with the same component.",
        "Above 0.95: labels hardly change. Below 0.05: they flicker like noise.",
        lambda n: not 0.05 <= n["label_agreement"] <= 0.95 and n["K"] > 1,
    ),
}

_MODEL_RULES = {
    "K": _Rule("Components."),
    "D": _Rule("Numbers in a frame."),
    "frames_a_component": _Rule(
        "Frames in the store for each component.",
        f"Below {_FEW_FRAMES}: too few to estimate variances from; take a smaller K.",
        lambda n: n["frames_a_component"] < _FEW_FRAMES,
    ),
    "variances_at_floor": _Rule(
        "Share of the variances that sit at --var_floor.",
        "Above 0.5: the floor makes this model, not the data; lower it, or take fewer components.",
        lambda n: n["variances_at_floor"] > 0.5,
        of_mixtures=True,
    ),
}

_STORE_RULES = {
    "utterances": _Rule("Utterances in the store."),
    "store_frames": _Rule("Frames in the store."),
    "hours_in": _Rule("Hours of audio that the manifest's lines name."),
    "hours_kept": _Rule("Hours that became frames."),
    "hours_cropped": _Rule(
        "Hours beyond --max_seconds, which were cut away.",
        "Above 5 % of hours_in: --long_audio split keeps them.",
        lambda n: n["hours_cropped"] > 0.05 * n["hours_in"],
    ),
    "hours_rejected": _Rule(
        "Hours of rejected lines, as far as headers or manifest state them.",
        "Above 5 % of hours_in: see the reasons below.",
        lambda n: n["hours_rejected"] > 0.05 * n["hours_in"],
    ),
    "lines": _Rule("Lines of the manifests."),
    "rejects": _Rule(
        "Lines that gave no frames.",
        "Above 5 % of the lines: see the reasons below.",
        lambda n: n["rejects"] > 0.05 * n["lines"],
    ),
    "cancelled": _Rule(
        "Utterances that lose more than 20 dB by the mean of their channels.",
        "Any: choose a channel in their manifest lines.",
        lambda n: n["cancelled"] > 0,
    ),
    "unstated": _Rule(
        "Files longer than their manifest states, used whole.",
        "More than a few: lines that should be segments lack an offset.",
        lambda n: n["unstated"] > 0.05 * n["lines"],
    ),
}


def tables(fit: FitResult, usage: Usage | None, facts: StoreFacts | None) -> list[Table]:
    """All numbers of a report; those of what is absent are left out."""
    found = [_table(fit, "The model", _model_numbers(fit, facts), _MODEL_RULES)]
    metrics = fit.metrics
    if metrics["update"]:
        last = {name: values[-1] for name, values in metrics.items()}
        held_out = [value for value in metrics.get("eval_nll", ()) if not math.isnan(value)]
        # A short last update has too few frames for every component to win one.
        own_frames = last["frames"] - [0.0, *metrics["frames"]][-2]
        context = {"sampled": own_frames, "best_eval_nll": min(held_out, default=math.nan)}
        title = f"After update {last['update']:.0f} (metrics.tsv, on a sample of its frames)"
        found.append(_table(fit, title, last, METRIC_RULES, context))
    if usage is not None:
        measures = usage.measures
        context = {"sampled": measures["frames"]}
        title = "On the sampled frames of the store (as gmmpipe evaluate measures them)"
        found.append(_table(fit, title, measures, SAMPLE_RULES, context))
    if facts is not None:
        found.append(_table(fit, "The store", _store_numbers(facts), _STORE_RULES))
    return found


def _table(
    fit: FitResult,
    title: str,
    numbers: Numbers,
    rules: dict[str, _Rule],
    context: Numbers | None = None,
) -> Table:
    known = {"K": float(fit.gmm.K), **(context or {}), **numbers}
    rows = []
    for name in [*(name for name in rules if name in numbers), *(numbers.keys() - rules.keys())]:
        rule = rules.get(name, _Rule("A number of another version of gmmpipe."))
        speaks = not (rule.of_mixtures and fit.is_kmeans)
        worry = rule.worry if speaks else "Says nothing of k-means."
        is_worrying = speaks and rule.worries is not None and rule.worries(known)
        rows.append(Row(name, shown(numbers[name]), rule.reading, worry, is_worrying))
    return Table(title, rows)


def shown(number: float) -> str:
    """A number as the page has it: six digits, whole numbers whole with thin gaps between them."""
    if not math.isfinite(number):
        return str(number)
    if number == int(number):
        return f"{int(number):,}".replace(",", "\u202f")
    return f"{number:.6g}"


def _model_numbers(fit: FitResult, facts: StoreFacts | None) -> Numbers:
    numbers: Numbers = {"K": fit.gmm.K, "D": fit.gmm.dim}
    if facts is not None:
        numbers["frames_a_component"] = facts.tally.frames / fit.gmm.K
    floor = fit.gmm.var_floor
    if floor is not None:
        at_floor = fit.gmm.log_vars.exp() <= floor * (1 + 1e-4)
        numbers["variances_at_floor"] = float(at_floor.double().mean())
    return numbers


def _store_numbers(facts: StoreFacts) -> Numbers:
    tally = facts.tally
    numbers: Numbers = {"utterances": tally.utterances, "store_frames": tally.frames}
    if facts.has_seconds:
        numbers |= {
            "hours_in": tally.seconds_in / 3600,
            "hours_kept": tally.seconds_kept / 3600,
            "hours_cropped": tally.seconds_cropped / 3600,
            "hours_rejected": tally.seconds_rejected / 3600,
        }
    numbers |= {"lines": tally.lines, "rejects": tally.rejects}
    if facts.has_seconds:
        numbers |= {"cancelled": tally.cancelled, "unstated": tally.unstated}
    return numbers
