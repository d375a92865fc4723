"""Tables whose cells are folded where a terminal is narrow, and never cut."""

from rich.table import Column, Table


def make_table(*columns: Column | str, padding: tuple[int, int, int, int] = (0, 1, 0, 0)) -> Table:
    """Return an empty table without lines; a column that is given by its name folds its cells."""
    folded = [Column(column, overflow="fold") if isinstance(column, str) else column for column in columns]
    return Table(*folded, box=None, padding=padding)
