"""Write `docs/benchmarks.md` and its pictures from the results of every machine, and the notes that go with them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.accuracies import ACCURACIES, Accuracy
from benchmarks.cases import BASELINE, CUDA_BASELINE
from benchmarks.harness import QUIET_LOAD
from benchmarks.plots import accuracy_png, latency_png
from benchmarks.records import CaseResult, ContenderResult, Results, Sitting
from benchmarks.summary import Line, baseline_of, best, compare, lines_of, milliseconds, peak_gflop_s

_NOTES = Path(__file__).with_name("notes.md")
_PICTURES = "benchmarks"
# What the plan for this product promises of float32 at batch 1, against the plain fused export.
_PROMISED = {"parnet_l": 1.03, "parnet_s": 1.03}
# And of ParNet-L in int8, a plan that `--plan` brings.
_PROMISED_INT8 = {"parnet_l": {"eager, unfused": 5.0, BASELINE: 3.0}}
# What the cleaner graph alone gives: the same engine as the baseline's.
_SAME_ENGINE = "parnet-deploy, onnxruntime, whole"
_AGAINST = {BASELINE: "against plain fused ONNX Runtime", CUDA_BASELINE: "against eager, channels_last, graph"}
_BITS = {"fp32": "float32", "fp16": "float16"}


def write_report(results: Sequence[Results], names: Sequence[str], page: Path) -> None:
    """Write the page, and pictures in the folder `benchmarks` beside it."""
    folder = page.parent / _PICTURES
    folder.mkdir(parents=True, exist_ok=True)
    parts = [_NOTES.read_text(encoding="utf-8").rstrip()]
    for result, name in zip(results, names, strict=True):
        parts.append("\n".join(_machine_section(result, name, folder)))
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _machine_section(results: Results, name: str, folder: Path) -> list[str]:
    machine = results.sittings[-1].machine
    title = f"{machine.processor}, {machine.usable_cores} cores" if results.device == "cpu" else results.device
    lines = [f"## {title}" if results.device == "cpu" else f"## {title}, {machine.processor}"]
    for setting, sittings in _by_setting(results.sittings).items():
        lines += ["", setting, "", *(f"- {_sitting(sitting)}" for sitting in sittings)]
    precision = "fp32" if results.device == "cpu" else "fp16"
    headline = [case for case in results.cases if case.batch == 1 and case.pixels == min(_pixels(results))]
    parnets = [case for case in headline if case.network.startswith("parnet")]
    lines += _promises(headline)
    for case in parnets:
        lines += ["", *_case_section(case, precision)]
    if parnets:
        (folder / f"{name}-latency.png").write_bytes(latency_png(parnets))
        lines += ["", f"![latencies]({_PICTURES}/{name}-latency.png)"]
    lines += _other_sizes([case for case in results.cases if case not in headline], precision)
    points = _accuracy_points(headline, precision)
    if len(points) > 1:
        (folder / f"{name}-accuracy.png").write_bytes(accuracy_png(points))
        lines += ["", *_accuracy_section(points, precision), "", f"![accuracy]({_PICTURES}/{name}-accuracy.png)"]
    lines += _left_out(results.cases)
    return lines


def _by_setting(sittings: Sequence[Sitting]) -> dict[str, list[Sitting]]:
    """Return the sittings by what they have in common: the machine and the versions, in words."""
    found: dict[str, list[Sitting]] = {}
    for sitting in sittings:
        machine = sitting.machine
        versions = ", ".join(f"{package} {version}" for package, version in sitting.versions.items())
        setting = f"{machine.system}, {machine.memory_bytes / 2**30:.0f} GiB, {machine.python}; {versions}:"
        found.setdefault(setting, []).append(sitting)
    return found


def _sitting(sitting: Sitting) -> str:
    """Say when which cases were measured, and whether the machine was quiet."""
    sizes: dict[str, list[str]] = {}
    for case in sitting.cases:
        sizes.setdefault(f"{case.pixels} px, batch {case.batch}", []).append(case.network)
    what = "; ".join(f"{size}: {', '.join(networks)}" for size, networks in sizes.items())
    text = f"{sitting.created[:10]} by parnet-deploy {sitting.tool_version}: {what}"
    if sitting.load_at_start <= QUIET_LOAD * sitting.machine.usable_cores:
        return text
    load = (
        f"its load was {sitting.load_at_start:.1f} when the benchmark began, so others were at work, or had just been"
    )
    return f"{text}. **Not a quiet machine**: {load}"


def _pixels(results: Results) -> set[int]:
    return {case.pixels for case in results.cases}


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    rule = ["---", *["---:"] * (len(columns) - 1)]
    return ["| " + " | ".join(row) + " |" for row in (columns, rule, *rows)]


def _promises(cases: Sequence[CaseResult]) -> list[str]:
    """State what was promised, what was measured, and whether it holds."""
    rows = []
    for case in cases:
        lines = lines_of(case)
        ours = best(lines, "ours")
        if case.network not in _PROMISED or ours is None or not any(line.name == BASELINE for line in lines):
            continue
        rows.append(_promise(case, ours, BASELINE, _PROMISED[case.network]))
        others = [(_SAME_ENGINE, BASELINE), *[(ours.name, peer.name) for peer in lines if peer.role == "peer"][:1]]
        for name, other in dict.fromkeys(others):
            if (name, other) != (ours.name, BASELINE) and any(line.name == name for line in lines):
                rows.append((f"{case.network}: {name}", other, str(compare(case, name, other)), "", ""))
        quantized = best(lines, "ours", "int8")
        if quantized is not None:
            wanted = _PROMISED_INT8.get(case.network, {})
            rows += [_promise(case, quantized, line.name, wanted[line.name]) for line in lines if line.name in wanted]
    if not rows:
        return []
    columns = ("batch 1", "times faster than", "median (range of rounds)", "promised", "holds")
    return ["", "### What was promised", "", *_table(columns, rows)]


def _promise(case: CaseResult, ours: Line, other: str, wanted: float) -> tuple[str, ...]:
    ratio = compare(case, ours.name, other)
    bits = "" if ours.precision == "fp32" else f" ({ours.precision})"
    verdict = "yes" if ratio.median >= wanted else "no"
    return f"{case.network}: {ours.name}{bits}", other, str(ratio), f"{wanted:.2f}", verdict


def _case_section(case: CaseResult, precision: str) -> list[str]:
    peak = peak_gflop_s(case)
    product = f"A {_BITS[precision]} matrix product"
    peak_text = "" if peak is None else f" {product} reached {peak:.0f} GFLOP/s in the same rounds."
    rounds = "one round" if case.rounds == 1 else f"{case.rounds} rounds in turn"
    title = f"### {case.network}, batch {case.batch}, {case.pixels} px"
    about = f"{case.gflop:.2f} GFLOP a request, {case.parameters / 1e6:.1f} million parameters, {rounds}.{peak_text}"
    all_lines = lines_of(case)
    baseline = baseline_of(case)
    has_clock = any(line.device_ms is not None for line in all_lines)
    columns = (
        "contender",
        "ms (range of rounds)",
        *(["on the device, ms"] if has_clock else []),
        *([] if baseline is None else [_AGAINST[baseline.name]]),
        "GFLOP/s",
        "of peak",
        "first answer, ms",
        "peak MiB",
        "difference",
    )
    return [title, "", about, "", *_table(columns, [_row(line, baseline, has_clock=has_clock) for line in all_lines])]


def _row(line: Line, baseline: ContenderResult | None, *, has_clock: bool) -> tuple[str, ...]:
    name = f"**{line.name}**" if line.role == "ours" else line.name
    bits = "" if line.precision == "fp32" else f" ({line.precision})"
    return (
        name + bits,
        f"{milliseconds(line.ms)} ({milliseconds(line.least_ms)} to {milliseconds(line.most_ms)})",
        *(["" if line.device_ms is None else milliseconds(line.device_ms)] if has_clock else []),
        *([] if baseline is None else ["1" if line.against_baseline is None else str(line.against_baseline)]),
        f"{line.gflop_s:.0f}",
        "" if line.share_of_peak is None else f"{line.share_of_peak:.0%}",
        f"{line.cold_start_ms:.0f}",
        f"{line.peak_mib:.0f}",
        "" if line.difference is None else f"{line.difference:.0e}",
    )


def _short(name: str) -> str:
    return name.removeprefix("parnet-deploy, ")


def _other_sizes(cases: Sequence[CaseResult], precision: str) -> list[str]:
    """Tabulate the best of ours against the best peer for what is not told in full."""
    rows = []
    for case in cases:
        lines = lines_of(case)
        ours, peer = best(lines, "ours", precision), best(lines, "peer", precision)
        fastest = peer if ours is None else ours
        if fastest is None:
            continue
        ratio = "" if ours is None or peer is None else str(compare(case, ours.name, peer.name))
        share = "" if fastest.share_of_peak is None else f"{fastest.share_of_peak:.0%}"
        rows.append(
            (
                f"{case.network}, {case.pixels} px, batch {case.batch}",
                "" if peer is None else f"{milliseconds(peer.ms)} ({peer.name}; {peer.peak_mib:.0f} MiB)",
                "" if ours is None else f"{milliseconds(ours.ms)} ({_short(ours.name)}; {ours.peak_mib:.0f} MiB)",
                ratio,
                f"{fastest.gflop_s:.0f}",
                share,
            )
        )
    if not rows:
        return []
    bits = _BITS[precision]
    columns = ("case", f"best peer in {bits}, ms", f"our best in {bits}, ms", "times faster", "GFLOP/s", "of peak")
    return ["", "### Other sizes and batches", "", *_table(columns, rows)]


def _accuracy_points(cases: Sequence[CaseResult], precision: str) -> list[tuple[Accuracy, str, float]]:
    """Return each published accuracy with the fastest latency in a precision that was measured of its network."""
    points = []
    for case in cases:
        fastest = next((line for line in lines_of(case) if line.precision == precision), None)
        if fastest is not None:
            points += [(entry, fastest.name, fastest.ms) for entry in ACCURACIES if entry.network == case.network]
    return points


def _accuracy_section(points: Sequence[tuple[Accuracy, str, float]], precision: str) -> list[str]:
    rows = [
        (f"{entry.network} ({entry.training})", f"{entry.top1:.2f}", milliseconds(ms), name, entry.source)
        for entry, name, ms in sorted(points, key=lambda point: point[2])
    ]
    columns = ("network", "top-1 %", f"ms, fastest {_BITS[precision]}", "by", "accuracy as published in")
    return ["### Who is faster at which accuracy (table 2's question)", "", *_table(columns, rows)]


def _left_out(cases: Sequence[CaseResult]) -> list[str]:
    reasons: dict[tuple[str, str], list[str]] = {}
    for case in cases:
        for entry in case.contenders:
            if entry.skipped is not None:
                where = f"{case.network} {case.pixels} px b{case.batch}"
                reasons.setdefault((entry.name, entry.skipped), []).append(where)
    if not reasons:
        return []
    lines = [f"- {name}: {reason} ({', '.join(where)})" for (name, reason), where in reasons.items()]
    return ["", "### Left out", "", *lines]
