"""What a script does before it imports packages that may be missing or slow to load."""
import os
import re
import signal
import sys
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parent.parent    # the folder of the scripts, wherever they are run from


def is_our_script() -> bool:
    """Is the running program a script of this project? A notebook or another program that imports us is left
    alone."""
    path = Path(getattr(sys.modules['__main__'], '__file__', None) or '/').resolve()
    folders = [ROOT / name for name in ('analysis', 'data', 'runs')]
    return path.parent == ROOT or any(folder in path.parents for folder in folders)


def prepare_script() -> None:
    """For a script of this project: before its `main` runs, a missing package is an error of one line and
    Ctrl-C shows no traceback; plots go into files."""
    if is_our_script():
        open_missing_streams()
        os.environ['MPLBACKEND'] = 'agg'    # a notebook exports its own to programs that it starts
        sys.excepthook = explain_missing_package
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            # For Ctrl-C while torch is imported; `cli.run` sets it back.
            signal.signal(signal.SIGINT, signal.SIG_DFL)


def open_missing_streams() -> None:
    """Let a stream that the shell closed (`>&-`) go nowhere. Otherwise the next file that is opened gets its
    number, and messages would be written into a checkpoint."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    sys.stdout = sys.stdout or open(1, 'w')
    sys.stderr = sys.stderr or open(2, 'w')


def explain_missing_package(kind: type[BaseException], error: BaseException,
                            trace: TracebackType | None) -> None:
    """A `sys.excepthook` that reports a missing package of requirements.txt in one line, with the command
    that installs it, and exits with status 2."""
    required = re.findall(r'^\w+', (ROOT / 'requirements.txt').read_text(encoding='utf-8'), re.MULTILINE)
    name = (getattr(error, 'name', None) or '').split('.')[0]
    if not issubclass(kind, ModuleNotFoundError) or name not in required:
        return sys.__excepthook__(kind, error, trace)
    if (ROOT / '.venv/bin/activate').exists():
        mend = f'source {ROOT}/.venv/bin/activate (the environment of runs/quickstart.sh)'
    else:
        mend = (f'{sys.executable} -m pip install -r {ROOT}/requirements.txt, '
                f'or bash {ROOT}/runs/quickstart.sh')
    print(f'error: this Python lacks the package {name}: {mend}', file=sys.stderr)
    sys.exit(2)
