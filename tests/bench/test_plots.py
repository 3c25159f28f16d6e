"""The pictures of a report: which there are, that they show something, and that colours stand for plans."""

from __future__ import annotations

import io
from itertools import combinations

import pytest
from PIL import Image

from parnet_deploy.artifacts.report import Report
from parnet_deploy.bench.output.colours import COLOURS, colour_of, letters_on, line_style_of
from parnet_deploy.bench.output.document import Picture
from parnet_deploy.bench.output.plots import report_pictures
from parnet_deploy.bench.output.plots.latency import distribution_picture, percentile_picture
from parnet_deploy.bench.output.plots.style import DARK, LIGHT, shown
from parnet_deploy.bench.output.tables import summary_table


def colours_in(png: bytes) -> dict[tuple[int, int, int], int]:
    """Count the pixels of each colour."""
    with Image.open(io.BytesIO(png)) as image:
        found = image.convert("RGB").getcolors(maxcolors=2**24)
    assert found is not None
    return {colour: count for count, colour in found if isinstance(colour, tuple)}


def rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def test_there_is_a_picture_for_everything_that_was_measured(report: Report, full_pictures: dict[str, Picture]) -> None:
    drawn = ["speed-up", "distribution", "percentiles", "timeline", "throughput", "table3"]
    assert list(full_pictures) == drawn
    alone = report.model_copy(update={"contenders": report.contenders[1:], "ratios": ()})
    assert list(report_pictures(alone)) == ["distribution", "percentiles", "timeline"]


def test_a_plan_has_one_colour_everywhere(full_report: Report, full_pictures: dict[str, Picture]) -> None:
    found = {name: colours_in(picture.light_png) for name, picture in full_pictures.items()}
    drawn = {name: {index for index, colour in enumerate(COLOURS) if rgb(colour) in found[name]} for name in found}
    # The reference has no speed-up over itself.
    assert drawn == {
        "speed-up": {1, 2},
        "distribution": {0, 1, 2},
        "percentiles": {0, 1, 2},
        "timeline": {0, 1, 2},
        "throughput": {0, 1, 2},
        "table3": {0, 1, 2},
    }
    assert summary_table(full_report).colours == COLOURS[:3]


def test_pictures_are_drawn_for_light_and_for_dark_pages(full_pictures: dict[str, Picture]) -> None:
    for picture in full_pictures.values():
        for png, theme in ((picture.light_png, LIGHT), (picture.dark_png, DARK)):
            counts = colours_in(png)
            assert max(counts, key=lambda colour: counts[colour]) == rgb(theme.background)
            assert counts[rgb(theme.foreground)] > 100


@pytest.mark.parametrize("latencies_ns", [(5_000_000,), (0, 0), (1_000, 10**9)])
def test_extreme_latencies_can_be_drawn(report: Report, latencies_ns: tuple[int, ...]) -> None:
    contenders = tuple(
        contender.model_copy(
            update={
                "label": f"_{contender.label}",
                "rounds": tuple(entry.model_copy(update={"latencies_ns": latencies_ns}) for entry in contender.rounds),
            }
        )
        for contender in report.contenders
    )
    extreme = report.model_copy(update={"contenders": contenders})
    for picture in (distribution_picture(extreme), percentile_picture(extreme)):
        # Not blank: the curves are there in colour.
        assert rgb(COLOURS[1]) in colours_in(picture.light_png)


def test_labels_are_no_formulas_and_no_longer_than_a_legend() -> None:
    assert shown("a" * 40) == "…" + "a" * 31
    assert shown("_hidden") == " _hidden"
    assert shown("$plain$") == "$plain$"


def test_colours_repeat_with_another_line() -> None:
    looks = [(colour_of(index), line_style_of(index)) for index in range(len(COLOURS) * 4)]
    assert len(set(looks)) == len(looks)


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of WCAG 2."""

    def luminance(colour: str) -> float:
        linear = [
            value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
            for value in (channel / 255 for channel in rgb(colour))
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("colour", [*COLOURS, LIGHT.neutral, DARK.neutral])
def test_letters_stand_out_on_bars(colour: str) -> None:
    # WCAG 2, level AA.
    assert contrast(letters_on(colour), colour) >= 4.5


def test_colours_stand_out_on_both_pages() -> None:
    for colour, theme in ((colour, theme) for colour in COLOURS for theme in (LIGHT, DARK)):
        assert contrast(colour, theme.background) >= 2
    assert all(one != other for one, other in combinations(COLOURS, 2))
