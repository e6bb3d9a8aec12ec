"""Record how a result was made: the hardware, the versions, the commit and the command."""
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from tbtt.config import ROOT


def provenance(device: torch.device) -> dict:
    """-> {'hardware', 'commit', 'command', 'versions'} of this process."""
    return {'hardware': hardware(device), 'commit': commit(), 'command': sys.argv,
            'versions': {'python': platform.python_version(), 'torch': torch.__version__,
                         'numpy': np.__version__}}


def commit(root: Path = ROOT) -> str | None:
    """The commit of this project's own repository, with `-dirty` appended if files were changed; None if
    there is no such repository.

    An unpacked archive may lie inside another repository, whose commit says nothing about this project.
    """
    top = git(root, 'rev-parse', '--show-toplevel')
    if not top or Path(top).resolve() != root.resolve():
        return None
    return git(root, 'describe', '--always', '--dirty', '--abbrev=12')


def git(root: Path, *args: str) -> str | None:
    """The output of a git command; None if it fails or git is missing."""
    if shutil.which('git') is None:
        return None
    # The running code is from this folder, so git may read it even if another user owns it.
    done = subprocess.run(['git', '-c', f'safe.directory={root}', '-C', root, *args], capture_output=True,
                          text=True)
    return done.stdout.strip() or None if done.returncode == 0 else None


def hardware(device: torch.device) -> str:
    """The device in words: a GPU's name, or the processor's with the number of threads."""
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        name = next(line.split(':', 1)[1].strip() for line in lines if line.startswith('model name'))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f'{name}, {torch.get_num_threads()} threads'
