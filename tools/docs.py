"""`python -m tools.docs`: bring what the documentation takes from the code up to date."""

from __future__ import annotations

import sys
from pathlib import Path

from tools.artefact_reference import with_tables
from tools.cli_reference import cli_reference

DOCS = Path(__file__).parents[1] / "docs"


def generated() -> dict[Path, str]:
    """Return the text that each generated page should have."""
    artefacts = DOCS / "artefacts.md"
    return {DOCS / "cli.md": cli_reference(), artefacts: with_tables(artefacts.read_text())}


def main() -> None:
    """Write the pages that are not up to date, and name them."""
    for path, text in generated().items():
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
