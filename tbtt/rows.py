"""Tables of an analysis as CSV files: rows of texts and numbers, a blank for a number that does not exist."""
import csv
import io
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from tbtt.cli import UserError
from tbtt.results import format_number

Rows = list[dict[str, Any]]


def format_cell(value: str | float | None) -> str:
    """A text as it is; a number as the shortest text that reads back as the same number; None and NaN as a
    blank."""
    if isinstance(value, str):
        return value
    return '' if value is None or value != value else format_number(value)


def parse_cell(text: str) -> float:
    """The number in a cell, NaN if it is blank. Raises ValueError if it is no number."""
    return int(text) if text.removeprefix('-').isdigit() else float(text or 'nan')


def format_rows(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as the text of a CSV file, with every column that any row has; blank where a row lacks one."""
    text = io.StringIO()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, columns, restval='', lineterminator='\n')
    writer.writeheader()
    writer.writerows({name: format_cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def read_rows(path: Path, texts: Collection[str], needs: Collection[str], writer: str) -> Rows:
    """The rows of a CSV file, with the numbers that `format_rows` wrote, NaN where blank.

    texts: the columns that hold text. needs: the columns that the caller reads. writer: the script that
    writes such a file. Raises `UserError` if the file cannot be read, has no rows or lacks such a column.
    """
    try:
        with open(path, newline='', encoding='utf-8') as file:
            rows = list(csv.DictReader(file, strict=True))
        if any(None in row or None in row.values() for row in rows):
            raise ValueError('a line has too few or too many fields')
        if missing := [name for name in needs if not rows or name not in rows[0]]:
            raise ValueError(f'lacks the column {missing[0]}' if rows else 'has no rows')
        return [{name: cell if name in texts else parse_cell(cell) for name, cell in row.items()}
                for row in rows]
    except (OSError, csv.Error, ValueError) as error:    # a UnicodeDecodeError is a ValueError
        raise UserError(f'{path}: {error}: write it with {writer}') from error
