"""A page of results: an answer, then sections of text, tables and pictures, whatever form it is given."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A titled table: the columns of `names` are text, or all if `is_text`, and the others right-aligned figures.

    `colours` are those of the rows in the pictures, if they have any.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    names: tuple[int, ...] = (0,)
    is_text: bool = False
    colours: tuple[str, ...] = ()

    def is_name(self, column: int) -> bool:
        """Tell whether a column is text."""
        return self.is_text or column in self.names


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Preformatted:
    """What a terminal showed."""

    text: str


@dataclass(frozen=True)
class Picture:
    """A PNG, once for light and once for dark pages; `name` is the file that the light one is also written to."""

    name: str
    description: str
    light_png: bytes
    dark_png: bytes


@dataclass(frozen=True)
class Pictures:
    """Pictures side by side where there is room."""

    pictures: tuple[Picture, ...]


Block = Table | Paragraph | Bullets | Preformatted | Pictures


@dataclass(frozen=True)
class Section:
    """Blocks under a heading."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Document:
    """A page: what it is about, the answer in a sentence, what supports it, and the details."""

    title: str
    answer: str
    support: tuple[str, ...]
    introduction: str
    sections: tuple[Section, ...]

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """Every picture, in the order of the page."""
        blocks = [block for section in self.sections for block in section.blocks]
        return tuple(picture for block in blocks if isinstance(block, Pictures) for picture in block.pictures)
