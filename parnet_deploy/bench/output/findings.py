"""What a report allows to say, in sentences: the answer first."""

from __future__ import annotations

from statistics import geometric_mean

from parnet_deploy.artifacts.report import Comparison, Contender, Machine, Metric, Ratio, Report
from parnet_deploy.bench.output.words import METRIC_NAMES, factor, figure, plural, speed_up
from parnet_deploy.bench.statistics import headline_metric, paired_ratio, round_values

# From this share of busy cores on, what else ran may have taken part in what was measured.
_QUIET_LOAD = 0.5


def answer(report: Report) -> str:
    """Say which plan is the fastest, by how much, and whether that is more than noise."""
    metric = headline_metric(report.settings.scenario)
    by = METRIC_NAMES[metric]
    best, *others = sorted(report.contenders, key=lambda entry: _value(entry, metric), reverse=metric == "throughput")
    best_figure = figure(_value(best, metric), metric)
    if not others:
        return f"{best.label}: {best_figure} ({by})"
    ratios = [_against(best, other, metric) for other in others]
    following = ratios[0]
    if following.interval is None:
        return (
            f"{best.label} was the fastest in the one round that was measured: {best_figure} ({by}),"
            f" {following.mean:.2f} times as fast as {following.reference};"
            " nothing tells how much of it is noise"
        )
    tied = [ratio.reference for ratio in ratios if ratio.finding != "faster"]
    if not tied:
        return (
            f"{best.label} is the fastest: {best_figure} ({by}),"
            f" {speed_up(following)} times as fast as the next, {following.reference}"
        )
    names = " and ".join(filter(None, [", ".join([best.label, *tied[:-1]]), tied[-1]]))
    if len(tied) == len(others):
        return f"No difference beyond the noise between {names}: the best had {best_figure} ({by})"
    return f"{names} are the fastest, with no difference beyond the noise: the best had {best_figure} ({by})"


def _value(contender: Contender, metric: Metric) -> float:
    return geometric_mean(round_values(contender.rounds, metric))


def _against(contender: Contender, other: Contender, metric: Metric) -> Ratio:
    values = [round_values(entry.rounds, metric) for entry in (contender, other)]
    return paired_ratio(contender.label, other.label, metric, *values)


def findings(report: Report) -> tuple[str, ...]:
    """State what each comparison allows to say, why runs were invalid, and whether the machine was quiet."""
    metric = headline_metric(report.settings.scenario)
    return (
        *(_finding(ratio) for ratio in report.ratios if ratio.metric == metric),
        *(_invalidity(contender) for contender in report.contenders if not contender.is_valid),
        *_unrest(report.machine),
    )


def _finding(ratio: Ratio) -> str:
    by = f"by {METRIC_NAMES[ratio.metric]}"
    if ratio.finding == "within the noise":
        return (
            f"the difference between {ratio.contender} and {ratio.reference} is within the noise:"
            f" speed-up {speed_up(ratio)} {by}"
        )
    if ratio.finding == "one round":
        return f"{ratio.contender} against {ratio.reference}: speed-up {speed_up(ratio)} {by}, of one round"
    return f"{ratio.contender} is {ratio.finding} than {ratio.reference}: speed-up {speed_up(ratio)} {by}"


def _invalidity(contender: Contender) -> str:
    invalid = [entry for entry in contender.rounds if entry.verdict == "INVALID"]
    counted = f"{len(invalid)} of {plural(len(contender.rounds), 'round')} of {contender.label}"
    return f"LoadGen calls {counted} invalid: {'; '.join(invalid[0].reasons)}"


def _unrest(machine: Machine) -> tuple[str, ...]:
    if machine.load_before is None or machine.load_before <= _QUIET_LOAD * machine.usable_cores:
        return ()
    return (
        f"the machine may not have been quiet: {machine.load_before:.1f} threads wanted to run on"
        f" {plural(machine.usable_cores, 'core')} in the minute before the first run",
    )


def comparison_findings(comparison: Comparison) -> tuple[str, ...]:
    """State for each plan whether it is slower than in the earlier report."""
    what = METRIC_NAMES[comparison.metric]
    by = what if comparison.by == "absolute" else f"speed-up over the first plan, {what}"
    return tuple(
        f"{change.contender} against the baseline: {_change_words(change.finding)}:"
        f" slowdown {factor(change.slowdown, change.interval)} by {by}"
        for change in comparison.changes
    )


def _change_words(finding: str) -> str:
    return {"slower": "slower", "faster": "faster"}.get(finding, f"the difference is {finding}")
