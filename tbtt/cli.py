"""What every script shares at the shell: options, `--help`, and errors that are one line long."""
import argparse
import difflib
import importlib
import os
import signal
import sys


class UserError(Exception):
    """A mistake that the user can mend: one line that says what was wrong, where, and what to do."""


class InvalidSetting(UserError):
    """A setting with an impossible value or of the wrong type."""


class Parser(argparse.ArgumentParser):
    """argparse with `--key=value` and `--key value`, one-line errors, and the nearest option for a mistyped one."""

    def __init__(self, doc, **kwargs):
        super().__init__(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
                         **kwargs)
        self.add_argument('--debug', action='store_true', help='show the whole traceback of an error')

    def error(self, message):
        raise UserError(f'{message} (--help lists the options)')

    def parse_args(self, args=None, namespace=None):
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            known = [name for action in self._actions for name in action.option_strings]
            raise UserError(unknown_name('option', unknown[0].split('=')[0], known))
        return parsed


def unknown_name(kind, name, known):
    """The message for a name that does not exist, with the nearest one that does."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f'did you mean {near[0]}?' if near else '--help lists them all'
    return f'unknown {kind} {name}: {hint}'


def true_or_false(text):
    """argparse type of a boolean: exactly True or False, as a config file writes them."""
    if text not in ('True', 'False'):
        raise argparse.ArgumentTypeError(f'expected True or False, got {text!r}')
    return text == 'True'


def study_package(name):
    """Import a package that only some scripts need. Raises `UserError` that says how to get it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f'the package {name.split(".")[0]} is missing or broken ({error}): '
                        f'pip install -r requirements-study.txt') from error


def run(main):
    """Run a script's `main()`: a `UserError` becomes one line on standard error and exit status 2."""
    if hasattr(sys.stdout, 'reconfigure'):
        sys.stdout.reconfigure(errors='backslashreplace')    # a folder's name may be no UTF-8
    try:
        status = main()
        sys.stdout.flush()
    except UserError as error:
        if '--debug' in sys.argv:
            raise
        one_line = ' '.join(str(error).split())
        print(f'error: {one_line}', file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except BrokenPipeError:    # who read our output, `| head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 128 + signal.SIGPIPE
    except OSError as error:
        if '--debug' in sys.argv or error.filename is None:
            raise
        print(f'error: {error.filename}: {error.strerror}', file=sys.stderr)
        sys.exit(2)
    sys.exit(status)
