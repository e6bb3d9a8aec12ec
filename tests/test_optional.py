"""Packages that a user may lack: the tests that need one are skipped, by its name, and all others stay."""
import re
import subprocess
import sys

import pytest

from conftest import HERE

# Stands for a Python in which a package is not installed.
HIDE = """
import sys
class Hidden:
    def find_spec(self, name, *_):
        if name.split('.')[0] == PACKAGE:
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)
sys.meta_path.insert(0, Hidden())
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""
USERS = {'ray': 'tests/test_sweep.py', 'transformers': 'tests/test_trace_models.py',
         'infini_gram': 'tests/test_trace_counters.py'}


def without(package, *args):
    command = [sys.executable, '-c', HIDE.replace('PACKAGE', repr(package)), '-q', '-p', 'no:cacheprovider', *args]
    return subprocess.run(command, cwd=HERE, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize('package', USERS)
def test_all_tests_can_be_collected_without_a_package_that_only_some_need(package):
    done = without(package, '--co', 'tests')
    assert done.returncode == 0 and ' error' not in done.stdout.splitlines()[-1], done.stdout[-2000:]


CHEAP = {'ray': 'ray_cluster_loses', 'transformers': '', 'infini_gram': 'an_index_is_used_again'}


@pytest.mark.parametrize('package', USERS)
def test_what_needs_a_package_is_skipped_by_its_name(package):
    done = without(package, '-rs', USERS[package], '-k', CHEAP[package])
    assert done.returncode in (0, 5), done.stdout[-2000:]    # 5: nothing of the module is left
    reasons = re.findall(r'^SKIPPED .*', done.stdout, re.MULTILINE)
    assert reasons and all(package in reason for reason in reasons), done.stdout[-2000:]
