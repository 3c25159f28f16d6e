"""How many times as fast: round by round over the reference, and beside table 3 of the paper."""

from __future__ import annotations

from typing import Any

from parnet_deploy.artifacts.report import Interval, Report
from parnet_deploy.bench.output.colours import colour_of
from parnet_deploy.bench.output.document import Picture
from parnet_deploy.bench.output.paper import PAPER_HARDWARE, PAPER_ROWS, Beside, beside_the_paper
from parnet_deploy.bench.output.plots.style import Theme, draw_picture, shown
from parnet_deploy.bench.output.words import METRIC_NAMES
from parnet_deploy.bench.statistics import headline_metric


def speed_up_picture(report: Report) -> Picture | None:
    """Draw each round's ratio to the reference, the mean and its interval; None for a single contender."""
    metric = headline_metric(report.settings.scenario)
    ratios = [ratio for ratio in report.ratios if ratio.metric == metric]
    if not ratios:
        return None
    order = [entry.label for entry in report.contenders]

    def paint(figure: Any, theme: Theme) -> None:
        axes = figure.subplots()
        axes.axvline(1.0, color=theme.foreground, linewidth=1.2)
        for row, ratio in enumerate(ratios):
            colour = colour_of(order.index(ratio.contender))
            if ratio.interval is not None:
                axes.plot(ratio.interval, [row, row], color=colour, linewidth=3, solid_capstyle="butt")
            axes.plot(ratio.per_round, [row - 0.22] * len(ratio.per_round), "o", color=colour, markersize=4, alpha=0.6)
            axes.plot([ratio.mean], [row], "D", color=colour, markersize=8, markeredgecolor=theme.background)
        axes.set_yticks(range(len(ratios)), labels=[shown(ratio.contender) for ratio in ratios])
        axes.set_ylim(len(ratios) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.set(
            title=f"Speed-up over {shown(report.reference.label)}",
            xlabel=f"times as fast, by {METRIC_NAMES[metric]}\n(diamond: mean, bar: 95% interval, dots: rounds)",
        )

    description = f"speed-up of each plan over {report.reference.label}, with its 95% interval and every round"
    return draw_picture("speed-up", description, 1.7 + 0.55 * len(ratios), paint)


def paper_picture(report: Report) -> Picture | None:
    """Draw the speed-ups of table 3 beside those of this machine; None where there is nothing to set beside them."""
    found = beside_the_paper(report)
    if not found:
        return None

    def paint(figure: Any, theme: Theme) -> None:
        axes = figure.subplots()
        names, positions, position = [], [], 0.0
        for paper_row in PAPER_ROWS:
            top = position
            paper = {"label": f"paper, {PAPER_HARDWARE}", "color": theme.neutral, "hatch": "//"}
            _bar(axes, position, (paper_row.speed_up, None), **paper)
            for entry in (entry for entry in found if entry.row is paper_row):
                position += 1
                here = {"label": shown(entry.contender.label), "color": _colour(report, entry)}
                _bar(axes, position, (entry.mean, entry.interval), **here)
            names.append(paper_row.name.replace(", ", ",\n"))
            positions.append((top + position) / 2)
            position += 1.6
        axes.axvline(1.0, color=theme.foreground, linewidth=1.2)
        axes.margins(x=0.12)
        axes.set_yticks(positions, labels=names)
        axes.set_ylim(position - 0.9, -0.7)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.set(title="Table 3 of the paper, and here", xlabel="times as fast as unfused\n(each on its own hardware)")
        handles, labels = axes.get_legend_handles_labels()
        unique = dict(zip(labels, handles, strict=True))
        figure.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=1)

    plans = {entry.contender.label for entry in found}
    height = 1.9 + 0.42 * (len(found) + len(PAPER_ROWS)) + 0.2 * len(plans)
    description = "speed-up over the unfused network in table 3 of the paper and on this machine: different hardware"
    return draw_picture("table3", description, height, paint)


def _bar(axes: Any, position: float, speed_up: tuple[float, Interval | None], **look: Any) -> None:
    """Draw a bar with its interval and its figure."""
    mean, interval = speed_up
    error = None if interval is None else [[max(0.0, mean - interval[0])], [max(0.0, interval[1] - mean)]]
    axes.barh(position, mean, height=0.9, xerr=error, capsize=3, ecolor="#777777", **look)
    end = mean if interval is None else interval[1]
    axes.annotate(f"{mean:.2f}", (end, position), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9.5)


def _colour(report: Report, entry: Beside) -> str:
    return colour_of([contender.label for contender in report.contenders].index(entry.contender.label))
