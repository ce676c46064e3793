"""What a row is."""

from typing import Callable, NamedTuple


class Row(NamedTuple):
    number: int
    name: str
    title: str
    run: Callable
