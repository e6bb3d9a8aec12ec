"""Check a zip archive from others before it is read."""
import io
import zipfile
from pathlib import Path

from tbtt.cli import UserError


def check_archive(content: bytes, path: str | Path, writer: str, advice: str) -> None:
    """Raise `UserError` unless this is an archive in which nothing is compressed, the members together are no
    larger than the file, and all checksums are right. Reading it then takes no more memory than the file has
    bytes.

    writer, advice: for the message: which program writes these files, and what to do.
    """
    if not zipfile.is_zipfile(io.BytesIO(content)):
        raise UserError(f'{path} is damaged, or was not written by {writer}: {advice}')
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        size = sum(member.file_size for member in members)
        if any(member.compress_type for member in members) or size > len(content):
            raise UserError(f'{path} is compressed, which {writer} never does: it is refused, for it may be '
                            f'too large for this machine')
        if (damaged := archive.testzip()) is not None:
            raise UserError(f'{path} is damaged: the checksum of {damaged} is wrong: {advice}')
