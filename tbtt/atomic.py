"""Writing files so that a crash leaves the old ones or the new ones: never half of one, never one without the other."""
import json
import os
from pathlib import Path

BESIDE = '.tbtt.tmp'          # a file being written
COMMIT = 'tbtt.commit.json'   # names the complete files beside their places, while they are being put there; a writer may
                              # have a name of its own with this end
MANY = 16                     # files: from here on one flush of everything takes a fraction of the time of one a file


def write_beside(path, content, flush=True):
    """Write bytes to a file beside `path`, and flush it to the disk. -> its path"""
    beside = Path(f'{path}{BESIDE}')
    try:
        with open(beside, 'wb') as file:
            file.write(content)
            if flush:
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:    # writing and flushing do not say which file they failed at
        beside.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    return beside


def flush_folders(folders):
    """Flush the names in folders to the disk."""
    if len(folders) > MANY:
        os.sync()
        return
    for folder in folders:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_file(path, content):
    """Replace one file in one step."""
    os.replace(write_beside(path, content), path)
    flush_folders({Path(path).parent})


def write_files(folder, contents, commit=COMMIT):
    """Replace several files as one: after a crash and `recover`, all of them are old or all are new.

    contents: {path relative to folder: bytes}. The new files are written beside their places; once the list of them is
    on the disk, the change counts as made, and `recover` would finish it.
    """
    folder = Path(folder)
    try:
        for name, content in contents.items():
            write_beside(folder / name, content, flush=len(contents) <= MANY)
        if len(contents) > MANY:
            os.sync()
        flush_folders({(folder / name).parent for name in contents})
        write_file(folder / commit, json.dumps(list(contents)).encode())
    except BaseException:
        (folder / commit).unlink(missing_ok=True)
        for name in contents:
            Path(f'{folder / name}{BESIDE}').unlink(missing_ok=True)
        raise
    put_in_place(folder / commit)


def put_in_place(commit):
    """Finish a change whose list is on the disk."""
    paths = [commit.parent / name for name in json.loads(commit.read_bytes())]
    for path in paths:
        beside = Path(f'{path}{BESIDE}')
        if beside.exists():    # else a crash came after this one was put in place
            os.replace(beside, path)
    flush_folders({path.parent for path in paths})
    commit.unlink()


def recover(folder):
    """Clean up after a crash: finish a change that was complete beside its places, undo one that was not."""
    folder = Path(folder)
    for commit in folder.glob(f'*{COMMIT}'):
        put_in_place(commit)
    for pattern in (f'*{BESIDE}', f'seed_*/*{BESIDE}'):
        for leftover in folder.glob(pattern):
            leftover.unlink()
