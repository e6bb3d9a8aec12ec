"""What all scripts share on the command line: options, `--help`, and errors of one line."""
import argparse
import difflib
import errno
import importlib
import io
import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any, NoReturn, TextIO

# Errors of writing to a stream. They name no file.
OF_STREAMS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class UserError(Exception):
    """A mistake that the user can correct: one line that says what was wrong, where, and what to do."""
    status = 2    # exit status of a script that ends with this error


class InvalidSetting(UserError):
    """A setting with an impossible value or of the wrong type."""


class Parser(argparse.ArgumentParser):
    """argparse with `--key=value` and `--key value`, one-line errors, and the nearest option for a wrong one.

    `~` in `--key=~/folder`, which bash does not expand, becomes the home folder. The options in `texts` are
    not paths and keep their `~`.
    """

    def __init__(self, doc: str, texts: Iterable[str] = (), **kwargs: Any) -> None:
        super().__init__(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter,
                         allow_abbrev=False, **kwargs)
        self.texts = set(texts)
        self.add_argument('--debug', action='store_true', help='show the whole traceback of an error')

    def error(self, message: str) -> NoReturn:
        """Raises `UserError`: argparse itself would print the usage and end the process."""
        raise UserError(f'{message} (--help lists the options)')

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
                         ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse's, with `~` expanded. -> the options, and the words that are not options"""
        words = sys.argv[1:] if args is None else args
        return super().parse_known_args([self.expand_home(word) for word in words], namespace)

    def expand_home(self, word: str) -> str:
        """--key=~/folder -> --key=/home/somebody/folder"""
        key, equals, value = word.partition('=')
        expands = key.startswith('--') and key not in self.texts and (value + '/').startswith('~/')
        return key + equals + os.path.expanduser(value) if expands else word

    def parse_args(self, args: Sequence[str] | None = None,
                   namespace: argparse.Namespace | None = None) -> argparse.Namespace:
        """As argparse's. Raises `UserError` for an unknown option, with the nearest one that exists."""
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            known = [name for action in self._actions for name in action.option_strings]
            raise UserError(unknown_name('option', unknown[0].split('=')[0], known))
        return parsed


def join_values(words: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """Join `--key value` to `--key=value`, for options that the parser leaves to its caller."""
    known = {name for action in parser._actions for name in action.option_strings}
    joined = []
    for word in words:
        before = joined[-1] if joined else ''
        waits = before.startswith('--') and '=' not in before and before not in known
        if waits and not word.startswith('--'):
            joined[-1] += f'={word}'
        else:
            joined.append(word)
    return joined


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """The message for a name that does not exist, with the nearest one that does."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f'did you mean {near[0]}?' if near else '--help lists them all'
    return f'unknown {kind} {name}: {hint}'


def true_or_false(text: str) -> bool:
    """argparse type of a boolean: exactly True or False, as a config file writes them."""
    if text not in ('True', 'False'):
        raise argparse.ArgumentTypeError(f'expected True or False, got {text!r}')
    return text == 'True'


def study_package(name: str) -> ModuleType:
    """Import a package that only some scripts need. Raises `UserError` that says how to get it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f'the package {name.split(".")[0]} is missing or broken ({error}): '
                        f'pip install -r requirements-study.txt') from error


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run a script's `main()`: a `UserError` becomes one line on standard error and exit status 2."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)    # see startup.py
    if hasattr(sys.stdout, 'reconfigure'):
        sys.stdout.reconfigure(errors='backslashreplace')    # a folder's name may be other than UTF-8
    try:
        status = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except BrokenPipeError:    # the program that read our output, as in `| head`, has ended
        discard(sys.stdout)
        status = 128 + signal.SIGPIPE
    except UserError as error:
        if '--debug' in sys.argv:
            raise
        complain(str(error))
        status = error.status
    except OSError as error:
        if '--debug' in sys.argv or error.filename is None and error.errno not in OF_STREAMS:
            raise
        complain(describe(error))
        status = 2
    sys.exit(status)


def describe(error: OSError) -> str:
    """What the system refused, and where. If the output failed, discard it from now on."""
    if error.filename is None:
        discard(sys.stdout)
        return f'the output cannot be written: {error.strerror}'
    if isinstance(error, FileExistsError):
        return f'{error.filename} is a file or a broken link, but a folder is needed there: choose another'
    return f'{error.filename}: {error.strerror}'


def complain(line: str) -> None:
    """Print an error, if standard error can still be written to."""
    try:
        print('error:', *line.split(), file=sys.stderr, flush=True)
    except OSError:
        discard(sys.stderr)


def discard(stream: TextIO) -> None:
    """Discard what is written to a stream from now on: Python would write it again at exit, and fail."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except io.UnsupportedOperation:
        pass    # not a stream of the system, as in a test
