"""Compile step.c for one shape of model, or take it from the user's cache. A cache folder or a library that
another user can write is never used. A library whose bytes do not match the digest in its name is built
again."""
import ctypes
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name('step.c')
COMPILERS = ('cc', 'gcc', 'clang')
# The compiler must not fuse multiplications and additions by itself: the bits would then depend on the
# compiler. The source fuses them explicitly.
FLAGS = ('-O2', '-ftree-vectorize', '-std=gnu11', '-ffp-contract=off', '-fno-math-errno', '-fPIC', '-shared')


class NotHere(Exception):
    """The fused step is not available here; the text says why."""


def find_compiler() -> str:
    """$CC, or the first C compiler on the path. Raises `NotHere` if there is none."""
    for name in (os.environ.get('CC', ''), *COMPILERS):
        path = shutil.which(name)
        if path:
            return path
    raise NotHere(f'no C compiler: none of {", ".join(COMPILERS)} is installed')


def for_this_processor() -> str:
    """The compiler's flag for all instructions that this processor has."""
    return '-march=native' if platform.machine().lower() in ('x86_64', 'amd64') else '-mcpu=native'


def processor() -> str:
    """A description of this processor. Machines with different processors may share a home folder, and so
    the cache."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return platform.machine() + platform.processor()
    kept = {line for line in lines if line.startswith(('model name', 'flags', 'Features', 'CPU '))}
    return '\n'.join(sorted(kept))


def run_compiler(command: list[str]) -> str:
    """Run a compiler. -> its standard output. Raises `NotHere` if it fails, with its first line that contains
    `error`, or its first line."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors='replace', timeout=300)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotHere(f'the compiler {command[0]} does not run ({error})') from error
    if done.returncode:
        lines = done.stderr.splitlines() + [f'status {done.returncode}']
        said = next((line for line in lines if 'error' in line), lines[0])
        raise NotHere(f'the compiler {command[0]} failed ({said.strip()[:150]})')
    return done.stdout


def only_mine(path: Path) -> bool:
    """Is `path` not a link, owned by the user, and writable by nobody else?"""
    state = path.lstat()
    return not stat.S_ISLNK(state.st_mode) and state.st_uid == os.getuid() and not state.st_mode & 0o022


def cache_folder() -> Path | None:
    """The folder of built libraries, created with mode 0700. None if it cannot be created, or if `only_mine`
    is false for it."""
    try:
        folder = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'tbtt'
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder if folder.is_dir() and only_mine(folder) else None
    except (OSError, RuntimeError):    # there is no home folder, or it cannot be written
        return None


def digest(content: bytes) -> str:
    """The first half of the SHA-256 of `content`, as 32 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()[:32]


def cached(folder: Path, key: str) -> Path | None:
    """The library of this key, if the folder has an undamaged one: its name ends with the digest of its
    bytes. A library that is damaged, or that others can write, is deleted."""
    for path in sorted(folder.glob(f'{key}-*.so')):
        try:
            if only_mine(path) and path.name == f'{key}-{digest(path.read_bytes())}.so':
                return path
            path.unlink()
        except OSError:    # another process was faster
            continue
    return None


def compile_into(folder: Path, key: str, command: list[str]) -> Path:
    """Compile into a temporary file, then rename it: a library under its final name is always complete."""
    descriptor, name = tempfile.mkstemp(suffix='.tmp', dir=folder)
    os.close(descriptor)
    tmp = Path(name)
    try:
        run_compiler([*command, str(SOURCE), '-o', name, '-lm'])
        tmp.chmod(0o700)
        path = folder / f'{key}-{digest(tmp.read_bytes())}.so'
        tmp.rename(path)
        return path
    finally:
        tmp.unlink(missing_ok=True)


def build(shape: dict[str, int], flags: tuple[str, ...] = ()) -> ctypes.CDLL:
    """The library of step.c for one shape, compiled if it is not in the cache. shape: the constants of step.c
    by name. flags: extra compiler flags, which come last. Raises `NotHere` if it cannot be built or
    loaded."""
    compiler = find_compiler()
    constants = [f'-D{name}={value}' for name, value in shape.items()]
    command = [compiler, *FLAGS, for_this_processor(), *constants, *flags]
    version = run_compiler([compiler, '--version'])
    key = digest('\n'.join([SOURCE.read_text(), version, processor(), *command]).encode())
    folder = cache_folder()
    try:
        if folder is not None:
            return ctypes.CDLL(str(cached(folder, key) or compile_into(folder, key, command)))
        with tempfile.TemporaryDirectory() as own:    # a loaded library does not need its file
            return ctypes.CDLL(str(compile_into(Path(own), key, command)))
    except OSError as error:
        raise NotHere(f'its library cannot be written or loaded ({error})') from error
