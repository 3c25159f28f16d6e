"""What a report allows to say."""

from __future__ import annotations

import pytest

from parnet_deploy.artifacts.measurements import BenchRound
from parnet_deploy.artifacts.report import Change, Comparison, Contender, MeasuredPlan, Report
from parnet_deploy.bench.contenders import contender_of, ratios_of
from parnet_deploy.bench.output.findings import answer, comparison_findings, findings
from parnet_deploy.bench.scenarios import settings_for

NAME = "<fast> & $new$"


def with_latencies(report: Report, latencies_ms: dict[str, list[float]]) -> Report:
    """Return a report whose contenders' rounds each had one latency."""
    template = report.contenders[0]

    def rounds(values: list[float]) -> list[BenchRound]:
        entry = template.rounds[0]
        return [
            entry.model_copy(
                update={
                    "latencies_ns": (round(value * 1e6),),
                    "latency": entry.latency.model_copy(update={"p50_ms": value, "min_ms": value}),
                    "samples_per_second": 1000 / value,
                }
            )
            for value in values
        ]

    def contender(label: str, values: list[float]) -> Contender:
        fields = {name: getattr(template, name) for name in MeasuredPlan.model_fields}
        return contender_of(MeasuredPlan(**fields | {"label": label}), rounds(values))

    contenders = tuple(contender(label, values) for label, values in latencies_ms.items())
    return report.model_copy(update={"contenders": contenders, "ratios": ratios_of(contenders)})


@pytest.mark.parametrize(
    ("latencies_ms", "sentence"),
    [
        ({"a": [10.0, 10.0]}, "a: 10.00 ms (median latency)"),
        (
            {"a": [10.0], "b": [8.0], "c": [9.0]},
            "b was the fastest in the one round that was measured: 8.000 ms (median latency), 1.12 times as fast as c;"
            " nothing tells how much of it is noise",
        ),
        (
            {"a": [10.0, 10.1, 10.2], "b": [5.0, 5.05, 5.1], "c": [8.0, 8.08, 8.16]},
            "b is the fastest: 5.050 ms (median latency), 1.60 (1.60 to 1.60) times as fast as the next, c",
        ),
        (
            {"a": [10.0, 11.0, 10.0], "b": [10.0, 10.0, 10.5]},
            "No difference beyond the noise between b and a: the best had 10.16 ms (median latency)",
        ),
        (
            {"a": [20.0, 20.2, 20.4], "b": [10.0, 11.0, 10.0], "c": [10.0, 10.0, 10.5]},
            "c and b are the fastest, with no difference beyond the noise: the best had 10.16 ms (median latency)",
        ),
    ],
)
def test_the_answer_names_the_fastest_and_what_is_no_slower(
    report: Report, latencies_ms: dict[str, list[float]], sentence: str
) -> None:
    assert answer(with_latencies(report, latencies_ms)) == sentence


def test_offline_the_fastest_has_the_highest_throughput(report: Report) -> None:
    offline = with_latencies(report, {"a": [10.0, 10.1], "b": [5.0, 5.05]})
    offline = offline.model_copy(update={"settings": settings_for("offline")})
    assert answer(offline) == (
        "b is the fastest: 199.0 samples/s (samples per second), 2.00 (2.00 to 2.00) times as fast as the next, a"
    )


def test_findings_are_sentences(report: Report) -> None:
    # Ratios 2.0 and 2.4; two rounds leave one degree of freedom: t = 12.7, so even these could be chance.
    assert findings(report) == (
        f"the difference between {NAME} and base is within the noise: speed-up 2.19 (0.69 to 6.98) by median latency",
        "LoadGen calls 2 of 2 rounds of base invalid: early stopping: too few queries",
        f"LoadGen calls 2 of 2 rounds of {NAME} invalid: early stopping: too few queries",
    )


@pytest.mark.parametrize(
    ("finding", "sentence"),
    [
        ("faster", f"{NAME} is faster than base: speed-up 2.19 (0.69 to 6.98) by median latency"),
        ("slower", f"{NAME} is slower than base: speed-up 2.19 (0.69 to 6.98) by median latency"),
        ("one round", f"{NAME} against base: speed-up 2.19 (0.69 to 6.98) by median latency, of one round"),
    ],
)
def test_each_finding_has_its_sentence(report: Report, finding: str, sentence: str) -> None:
    ratios = tuple(ratio.model_copy(update={"finding": finding}) for ratio in report.ratios)
    assert findings(report.model_copy(update={"ratios": ratios}))[0] == sentence


@pytest.mark.parametrize(("load", "is_said"), [(None, False), (1.0, False), (1.1, True)])
def test_a_machine_that_was_not_quiet_is_named(report: Report, load: float | None, is_said: bool) -> None:
    machine = report.machine.model_copy(update={"load_before": load})
    last = findings(report.model_copy(update={"machine": machine}))[-1]
    assert last.startswith("the machine may not have been quiet: 1.1 threads wanted to run on 2 cores") == is_said


@pytest.mark.parametrize(
    ("finding", "words"),
    [
        ("slower", "slower"),
        ("faster", "faster"),
        ("within the noise", "the difference is within the noise"),
        ("within the tolerance", "the difference is within the tolerance"),
    ],
)
def test_changes_are_sentences(finding: str, words: str) -> None:
    change = Change(
        contender="plan",
        before=2.0,
        after=3.0,
        slowdown=1.5,
        interval=(1.4, 1.6),
        finding=finding,  # type: ignore[arg-type]
    )
    comparison = Comparison(
        created="then", tool_version="0", by="absolute", metric="min_latency", tolerance=0.05, changes=(change,)
    )
    expected = f"plan against the baseline: {words}: slowdown 1.50 (1.40 to 1.60) by "
    assert comparison_findings(comparison) == (f"{expected}fastest query",)
    relative = comparison.model_copy(update={"by": "relative"})
    assert comparison_findings(relative) == (f"{expected}speed-up over the first plan, fastest query",)
