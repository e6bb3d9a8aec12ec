"""Tables for people and for the README."""


def table(heads, rows):
    """Markdown of texts: heads (C,), rows of (C,) each."""
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in (heads, ['---'] * len(heads), *rows))
