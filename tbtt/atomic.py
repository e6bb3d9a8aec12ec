"""Write files so that a crash leaves either all old files or all new files: never half a file, never a mix.

A change has a name. Its new files are first written beside their places, as `ckpt.pt.NAME.tbtt.tmp`. Once a
list of these files, `tbtt.commit.json`, is on the disk, the change counts as made. Then the files are renamed
into place, and the list is removed. If several folders change together, each folder has its own list. So a
program that opens only one of them can finish or undo that folder's part. The list also names the files of
the other folders, so that a program that opens all of them finishes all parts or none.
"""
import errno
import json
import os
import re
import secrets
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tbtt.cli import UserError

TMP = '.tbtt.tmp'             # the end of the name of a file that is being written
COMMIT = 'tbtt.commit.json'   # the list
THREADS = 16                  # threads that write and flush: a disk can flush many files at once


class Change(NamedTuple):
    """The content of a list: the name of the change, this folder's files, and the other folders' files as
    {name of a folder: files}."""
    name: str
    files: list[str]
    others: dict[str, list[str]]


def tmp_path(folder: Path, change: str, name: str) -> Path:
    """The path beside the file `name` to which a change writes its new content."""
    return folder / f'{name}.{change}{TMP}'


def in_parallel(function: Callable, *arguments: Iterable) -> list:
    """map() in several threads, for functions that wait for the disk."""
    calls = list(zip(*arguments))
    if len(calls) < 2:
        return [function(*call) for call in calls]
    with ThreadPoolExecutor(min(THREADS, len(calls))) as pool:
        return list(pool.map(lambda call: function(*call), calls))


def write_tmp(tmp: Path, content: bytes, path: Path) -> None:
    """Write the new content of `path` to the file `tmp`, and flush it to the disk."""
    try:
        with open(tmp, 'wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:    # writing and flushing do not say which file they failed at
        tmp.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error
    except BaseException:
        tmp.unlink(missing_ok=True)
        raise


def flush_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: Path | str, content: bytes) -> None:
    """Replace one file in one step."""
    path = Path(path)
    tmp = Path(f'{path}{TMP}')
    write_tmp(tmp, content, path)
    os.replace(tmp, path)
    flush_folder(path.parent)


def write_files(folder: Path | str, contents: dict[str, bytes], commit: str = COMMIT) -> None:
    """Replace several files of a folder together. contents: {name: bytes}. commit: name of the list, for a
    folder into which other programs write too."""
    write_folders({Path(folder): contents}, commit)


def write_folders(changes: dict[Path, dict[str, bytes]], commit: str = COMMIT) -> None:
    """Replace files in several folders of one parent together: after a crash and `recover`, all files are old
    or all are new.

    changes: {folder: {name: bytes}}. Raises OSError that names the file at fault. An error before the
    change counts as made leaves all files old.
    """
    name = secrets.token_hex(4)
    files = {folder: list(contents) for folder, contents in changes.items()}
    todo = [(tmp_path(folder, name, file), content, folder / file)
            for folder, contents in changes.items() for file, content in contents.items()]
    try:
        in_parallel(write_tmp, *zip(*todo))
        in_parallel(flush_folder, files)
        in_parallel(write_list, [folder / commit for folder in files],
                    [change_of(name, folder, files) for folder in files])
        for tmp, _, path in todo:
            if not tmp.exists():
                raise FileNotFoundError(errno.ENOENT, 'its new content was removed by another program',
                                        str(path))
    except BaseException:
        undo(name, files, commit)
        raise
    put_in_place(name, files, commit)


def change_of(name: str, folder: Path, files: dict[Path, list[str]]) -> Change:
    """The content of the list in `folder`. files: {folder: names of its files} for the whole change."""
    return Change(name, files[folder], {other.name: files[other] for other in files if other != folder})


def write_list(path: Path, change: Change) -> None:
    """Write the list of a change, as JSON: from now on the change counts as made."""
    write_file(path, json.dumps(change._asdict()).encode())


def put_in_place(name: str, files: dict[Path, list[str]], commit: str = COMMIT) -> None:
    """Finish a change whose lists are on the disk. files: {folder: names}"""
    for folder, names in files.items():
        for file in names:
            os.replace(tmp_path(folder, name, file), folder / file)
    in_parallel(flush_folder, files)
    for folder in files:
        (folder / commit).unlink()


def undo(name: str, files: dict[Path, list[str]], commit: str = COMMIT) -> None:
    """Undo a change that failed. The lists go first, because all files that a list names must exist."""
    folders = [folder for folder in files if folder.is_dir()]
    for folder in folders:
        (folder / commit).unlink(missing_ok=True)
    in_parallel(flush_folder, folders)
    for folder in folders:
        for file in files[folder]:
            tmp_path(folder, name, file).unlink(missing_ok=True)


def read_list(folder: Path, known: Callable[[str], bool]) -> Change:
    """The list that a crash left in a folder. Raises `UserError` unless all files that it names are
    `known`."""
    path = folder / COMMIT
    try:
        found = json.loads(path.read_bytes())
        change = Change(**found)
        names = [change.files, *change.others.values()]
        ours = all(map(known, [file for files in names for file in files]))
        if not re.fullmatch('[0-9a-f]{8}', change.name) or not ours:
            raise ValueError('it names files that no run writes')
    except (AttributeError, RecursionError, TypeError, ValueError) as error:
        raise UserError(f'{path} is damaged ({type(error).__name__}): delete it to continue with the files '
                        f'as they are, or start anew with --overwrite=True') from error
    return change


def half_made(folders: Collection[Path], known: Callable[[str], bool]) -> dict[Path, Change]:
    """The changes in these folders that count as made but that a crash left unfinished. -> {folder: its
    change}

    A folder's change counts if the folder has its list. It also counts if another of the folders has its list
    and all files of this folder are still beside their places. known: may a list name this file?
    """
    lists = {folder: read_list(folder, known) for folder in folders if (folder / COMMIT).exists()}
    found = dict(lists)
    for folder in folders:
        for other, change in lists.items():
            files = change.others.get(folder.name, [])
            if folder not in found and folder.parent == other.parent and files and all(
                    tmp_path(folder, change.name, file).exists() for file in files):
                whole = {folder.parent / name: names for name, names in change.others.items()}
                whole[other] = change.files
                found[folder] = change_of(change.name, folder, whole)
    return found


def new_content(folder: Path, change: Change | None, name: str) -> Path:
    """The path of a file's new content: its place or, while its change is unfinished, beside it."""
    if change is not None and name in change.files:
        tmp = tmp_path(folder, change.name, name)
        return tmp if tmp.exists() else folder / name
    return folder / name


def recover(folders: Collection[Path], known: Callable[[str], bool]) -> None:
    """Clean up after a crash, in folders into which no other program writes: finish the changes that count as
    made, and undo the others. Raises `UserError` for a list that cannot be read."""
    changes = half_made(folders, known)
    for folder, change in changes.items():
        if not (folder / COMMIT).exists():    # before files are put in place: a crash may interrupt this too
            write_list(folder / COMMIT, change)
    for folder, change in changes.items():
        left = [name for name in change.files if tmp_path(folder, change.name, name).exists()]
        put_in_place(change.name, {folder: left})    # the others are in place already
    for folder in folders:
        remove_leftovers(folder)


def remove_leftovers(folder: Path) -> None:
    """Remove the files that lie beside the places of a folder's files."""
    for leftover in folder.glob(f'*{TMP}'):
        leftover.unlink()
