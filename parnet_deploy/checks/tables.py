"""The tables of a verification, as text that each form of output lays out in its own way."""

from __future__ import annotations

from parnet_deploy.artifacts.verification import ArtefactRecord, Comparison, Difference, Verification
from parnet_deploy.checks.departure import short
from parnet_deploy.reporting.document import Table

_UNKNOWN = "-"


def tensor_table(verification: Verification) -> Table:
    """Tabulate the logits of each set of images; where stages but not all layers were compared, those tensors too."""
    first = verification.comparisons[0]
    has_norm = bool(first.stages) and not first.layers
    columns = ("max abs", "relative", *(("norm",) if has_norm else ()), "cosine", "top-1 agreement")
    rows: list[tuple[str, ...]] = []
    marked = set()
    for comparison in verification.comparisons:
        for entry in (*(comparison.stages if has_norm else ()), comparison.logits):
            if not entry.passed:
                marked.add(len(rows))
            agreement = f"{comparison.top1_agreement:.2%}" if entry is comparison.logits else ""
            images = f"{comparison.count} {comparison.images}"
            rows.append((images, entry.name, *_numbers(entry, has_norm=has_norm), agreement))
    title = "Logits and tensors between stages" if has_norm else "Logits"
    return Table(title, ("images", "tensor", *columns), tuple(rows), names=(0, 1), marked=frozenset(marked))


def _numbers(entry: Difference, *, has_norm: bool) -> tuple[str, ...]:
    return (
        _scientific(entry.max_abs),
        _scientific(entry.relative),
        *((_scientific(entry.norm),) if has_norm else ()),
        _UNKNOWN if entry.cosine is None else f"{entry.cosine:.9f}",
    )


def _scientific(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:.2e}"


def layer_table(verification: Verification) -> Table:
    """Tabulate every layer in topological order: its difference on each set of images, and what is allowed."""
    first = verification.comparisons[0]
    by_set = [{layer.name: layer for layer in comparison.layers} for comparison in verification.comparisons]
    rows, marked = [], set()
    for index, layer in enumerate(first.layers):
        found = [layers[layer.name] for layers in by_set]
        if any(not entry.passed for entry in found) or _is_departure(verification, layer.name):
            marked.add(index)
        allowed = _UNKNOWN if layer.tolerance is None else f"{layer.tolerance:.0e}"
        blocks = layer.blocks[0] if len(layer.blocks) == 1 else f"{layer.blocks[0]} to {layer.blocks[-1]}"
        cosines = [entry.cosine for entry in found if entry.cosine is not None]
        rows.append(
            (
                layer.name,
                blocks,
                str(layer.depth),
                *(short(entry.size) for entry in found),
                f"{min(cosines):.9f}" if cosines else _UNKNOWN,
                allowed,
            )
        )
    sets = (f"relative, {comparison.images}" for comparison in verification.comparisons)
    columns = ("layer", "made by", "depth", *sets, "least cosine", "tolerance")
    return Table("Layers", columns, tuple(rows), names=(0, 1), marked=frozenset(marked))


def _is_departure(verification: Verification, name: str) -> bool:
    departures = (comparison.departure for comparison in verification.comparisons)
    return any(departure is not None and departure.layer == name for departure in departures)


def change_table(verification: Verification) -> Table:
    """Tabulate what is not what it was when the golden file was written."""
    rows = tuple((change.what, change.before, change.after) for change in verification.changes)
    return Table("Changed since the golden file was written", ("what", "before", "now"), rows, is_text=True)


def artefact_table(verification: Verification) -> Table:
    """Tabulate what was compared."""
    remembered = " (golden file)" if verification.is_golden else ""
    rows = (
        _artefact_row(f"reference{remembered}", verification.a),
        _artefact_row("compared with it", verification.b),
    )
    columns = ("", "name", "kind", "form", "precision", "partition", "made by", "made from", "sha256")
    return Table("Artefacts", columns, rows, is_text=True)


def _artefact_row(role: str, record: ArtefactRecord) -> tuple[str, ...]:
    made_by = ", ".join(f"{name} {version}" for name, version in record.tools.items())
    parent = "" if record.parent is None else f"{record.parent.kind} {record.parent.name}"
    kept = (record.name, record.kind, record.form, record.precision, record.partition or "")
    return (role, *kept, made_by, parent, record.sha256[:12])


def environment_table(verification: Verification) -> Table:
    """Tabulate where it was run, and with what."""
    found = verification.environment
    rows = (
        ("parnet-deploy", found.tool_version),
        ("processor", f"{found.processor} ({found.capability})"),
        ("Python", found.python),
        *found.packages.items(),
    )
    return Table("Machine", ("part", "description"), rows, is_text=True)


def comparison_title(comparison: Comparison) -> str:
    """Name a set of images as a legend does."""
    return f"{comparison.count} {comparison.images}"
