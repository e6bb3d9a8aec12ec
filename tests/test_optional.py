"""Packages that a user may lack: the tests that need one are skipped and name it, and all other tests run."""
import re
import subprocess
import sys

import pytest

from conftest import HERE

# Imitates a Python in which these packages are not installed.
PACKAGES = ('ray', 'transformers', 'infini_gram', 'tensorboard', 'wandb', 'trackio', 'pandas', 'nbclient')
HIDE = f"""
import sys
class Hidden:
    def find_spec(self, name, *_):
        if name.split('.')[0] in {PACKAGES}:
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
sys.meta_path.insert(0, Hidden())
import pytest
quietly = ['-q', '-p', 'no:cacheprovider', '--assert=plain']    # quicker: which fail is all that is asked
sys.exit(pytest.main([*quietly, '--co', 'tests']) or pytest.main([*quietly, *sys.argv[1:]]))
"""


@pytest.mark.slow
def test_without_packages_that_only_some_need_all_tests_are_collected_and_some_skipped_by_its_name():
    names = ('sweep', 'trace_models', 'trace_counters', 'loggers', 'library', 'tour')
    modules = [f'tests/test_{name}.py' for name in names]
    done = subprocess.run([sys.executable, '-c', HIDE, '-rs', *modules, '-k',
                           'ray_cluster_loses or an_index_is_used_again or numpy_counts or seed_1337 or '
                           'table_of_several_seeds or notebook_runs'],
                          cwd=HERE, capture_output=True, text=True)
    assert done.returncode == 0 and '1 passed' in done.stdout, done.stdout[-2000:]
    reasons = re.findall(r"^SKIPPED .* No module named '(\w+)", done.stdout, re.MULTILINE)
    assert set(reasons) == set(PACKAGES) and done.stdout.count('SKIPPED') == len(reasons), done.stdout[-2000:]
