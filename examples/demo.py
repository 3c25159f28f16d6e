"""Take a ParNet from training to engines that answer in parallel, with the commands that a user would type.

Trains a small network on scikit-learn's handwritten digits (real images, nothing to download), fuses and exports it,
whole and cut by stream, builds plans, evaluates and compares every artefact, benchmarks the plans side by side, and
writes one page with all of it. Needs no GPU.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parnet_deploy.artifacts.report import Report, read_report
from parnet_deploy.bench.output.document import Document, Preformatted, Section, Table
from parnet_deploy.bench.output.findings import answer, findings
from parnet_deploy.bench.output.html import html_of
from parnet_deploy.bench.output.plots import report_pictures
from parnet_deploy.bench.output.report_document import document_of

TOOL = Path(sys.executable).with_name("parnet-deploy")


@dataclass
class Transcript:
    """The commands that were run, with what they printed for people."""

    entries: list[tuple[str, str, float]] = field(default_factory=list)

    def run(self, *arguments: str) -> str:
        """Run a command, show it, and stop the demo if it fails."""
        shown = "parnet-deploy " + " ".join(arguments)
        print(f"\n$ {shown}", flush=True)
        start = time.perf_counter()
        done = subprocess.run([TOOL, *arguments], stdout=subprocess.PIPE, text=True)
        seconds = time.perf_counter() - start
        print(done.stdout, end="", flush=True)
        if done.returncode:
            sys.exit(done.returncode)
        self.entries.append((shown, done.stdout, seconds))
        return done.stdout

    def ask(self, *arguments: str) -> Any:
        """Run a command for its JSON, without showing it."""
        done = subprocess.run([TOOL, *arguments, "--json"], stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(done.returncode)
        return json.loads(done.stdout)


def save_digit_images(folder: Path, count: int) -> None:
    """Write held-out digits as PNG files, to classify as a user would."""
    from parnet_deploy.datasets.digits import digits_split

    folder.mkdir(parents=True)
    images, labels = digits_split("test")
    for index, (image, label) in enumerate(zip(images[:count], labels, strict=False)):
        image.save(folder / f"{index:02d}_is_a_{label}.png")


def accuracy_table(transcript: Transcript, artefacts: dict[str, Path]) -> tuple[list[tuple[str, ...]], bool]:
    """Evaluate every artefact on the held-out digits; tell whether all predictions are the same."""
    results = {name: transcript.ask("evaluate", str(path), "digits") for name, path in artefacts.items()}
    predictions = [result["predictions"] for result in results.values()]
    rows = [
        (name, f"{result['top1']:.2f}%", f"{result['top5']:.2f}%", str(result["count"]))
        for name, result in results.items()
    ]
    return rows, all(found == predictions[0] for found in predictions)


def difference_table(transcript: Transcript, reference: Path, artefacts: dict[str, Path]) -> list[tuple[str, ...]]:
    """Compare every artefact with the trained checkpoint on real digits and random images."""
    rows = []
    for name, path in artefacts.items():
        found = transcript.ask("verify", str(reference), str(path), "--data", "digits", "--count", "32")
        for comparison in found["comparisons"]:
            logits = comparison["logits"]
            agreement = f"{comparison['top1_agreement']:.1%}"
            images = f"{comparison['count']} {comparison['images']}"
            rows.append((name, images, f"{logits['max_abs']:.1e}", f"{logits['relative']:.1e}", agreement))
    return rows


def print_table(table: Table) -> None:
    """Print a table for people."""
    from rich.console import Console
    from rich.table import Table as RichTable

    printed = RichTable(*table.columns, title=table.title, title_justify="left", box=None)
    for row in table.rows:
        printed.add_row(*row)
    print()
    Console(width=120, highlight=False).print(printed)


def demo_page(verdict: str, tables: list[Table], report: Report, transcript: Transcript) -> str:
    """Lay out the one page of the demo: what came out, the benchmark's own sections, and every command."""
    bench = document_of(report, report_pictures(report))
    shown = tuple(
        Preformatted(f"$ {command}    ({seconds:.1f} s)\n\n{printed}")
        for command, printed, seconds in transcript.entries
    )
    return html_of(
        Document(
            title="parnet-deploy demo",
            answer=verdict,
            support=(answer(report), *findings(report)),
            introduction=f"Trained on handwritten digits, fused, exported, built, measured. {bench.introduction}",
            sections=(Section("The same numbers", tuple(tables)), *bench.sections, Section("Transcript", shown)),
        )
    )


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--output", type=Path, default=Path("out/demo"), help="Folder to write; an old one is replaced."
    )
    out: Path = parser.parse_args().output
    start = time.perf_counter()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    t = Transcript()

    trained, fused = out / "digits.safetensors", out / "digits_fused.safetensors"
    t.run("train", "--data", "digits", "--model", "parnet_nano", "-o", str(trained))
    t.run("fuse", str(trained), "-o", str(fused))
    t.run("export", str(trained), "-o", str(out / "bundle_unfused"))
    t.run("export", str(fused), "-o", str(out / "bundle_whole"))
    t.run("export", str(fused), "-o", str(out / "bundle_split"), "--split-streams")
    plans = {name: out / f"plan_{name}" for name in ("unfused", "whole", "split")}
    for name, plan in plans.items():
        t.run("build", str(out / f"bundle_{name}"), "-o", str(plan), "--backend", "onnxruntime")
    t.run("inspect", str(plans["split"]))
    save_digit_images(out / "images", 3)
    t.run("run", str(plans["split"]), str(out / "images"), "--top", "3")
    t.run("verify", str(trained), str(plans["split"]), "--data", "digits", "--per-stage")

    named = {"fused checkpoint": fused, "plan, fused, whole": plans["whole"], "plan, fused, split": plans["split"]}
    accuracy, same = accuracy_table(t, {"trained checkpoint (before fusion)": trained, **named})
    accuracy_columns = ("artefact", "top-1", "top-5", "held-out images")
    difference_columns = ("artefact", "images", "max abs", "relative", "top-1 agreement")
    tables = [
        Table("Accuracy on held-out digits", accuracy_columns, tuple(accuracy)),
        Table(
            "Difference from the trained checkpoint",
            difference_columns,
            tuple(difference_table(t, trained, named)),
            names=(0, 1),
        ),
    ]
    for table in tables:
        print_table(table)
    verdict = f"All artefacts give {'the same predictions' if same else 'DIFFERENT predictions'} on held-out digits"
    print(verdict)

    t.run("serve-bench", *(str(plan) for plan in plans.values()), "-o", str(out / "bench"))
    (out / "report.html").write_text(demo_page(verdict, tables, read_report(out / "bench"), t), encoding="utf-8")
    print(f"\ndone in {time.perf_counter() - start:.0f} s; open {out / 'report.html'}")
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
