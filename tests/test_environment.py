"""The shell scripts make their environment once, remake it if it is broken, and take any given Python."""
import os
import shutil
import subprocess
import sys

import pytest

from conftest import HERE

# A fake Python: `-m venv` makes a .venv with a copy of this script, and whatever would take long is only
# logged.
FAKE = '''#!/usr/bin/env bash
case "$*" in
    -c*) exec REAL "$@" ;;
    -VV) echo "Python VERSION" ;;
    "-m venv --clear "*) echo venv >> LOG; rm -rf "$4"; mkdir -p "$4/bin"
        cp "$0" "$4/bin/python"; touch "$4/bin/activate" ;;
    "-m pip --version") ;;
    "-m pip install"*) echo "install ${@: -1}" >> LOG ;;
    *) echo "run $1" >> LOG ;;
esac
'''


@pytest.fixture
def project(tmp_path):
    """A folder with a blank in its name, the shell scripts, and a fake `bin/python3`."""
    root = tmp_path / 'a project'
    shutil.copytree(HERE / 'runs', root / 'runs')
    for path in HERE.glob('requirements*.txt'):
        shutil.copy(path, root)
    fake(root, root / 'bin/python3')
    return root


def fake(project, path, version='3.12.0'):
    """Write a fake Python that notes in `log` what it is asked to do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = FAKE.replace('REAL', sys.executable).replace('LOG', f'"{project}/log"').replace('VERSION', version)
    path.write_text(text)
    path.chmod(0o755)


def bash(project, script='quickstart.sh', cwd=None, **variables):
    """-> the script's result, and the lines that the fake Python logged"""
    (project / 'log').write_text('')
    environment = {'PATH': f'{project}/bin:/usr/bin:/bin', 'HOME': str(project), **variables}
    result = subprocess.run(['bash', project / 'runs' / script], cwd=cwd or project, env=environment,
                            capture_output=True, text=True)
    return result, (project / 'log').read_text().splitlines()


def test_the_environment_is_made_once(project):
    result, asked = bash(project)
    assert result.returncode == 0, result.stderr
    assert asked[:2] == ['venv', 'install requirements.txt'] and 'run train_with_eval.py' in asked
    result, asked = bash(project)
    assert result.returncode == 0 and not {'venv', 'install requirements.txt'} & set(asked)


def test_its_last_lines_say_how_to_use_it(project):
    result, _ = bash(project)
    command = result.stdout.splitlines()[-1].strip()
    assert command.endswith('&& source .venv/bin/activate')
    # the blank in the path is quoted
    assert subprocess.run(['bash', '-c', command], cwd='/').returncode == 0


def break_off(venv):
    """Leave a venv as Ctrl-C does during `python -m venv`: no pip and no activate yet."""
    (venv / 'bin/activate').unlink()
    (venv / 'bin/python').write_text('#!/bin/sh\nexit 1\n')


def remove_python(venv):
    (venv / 'bin/python').unlink()
    (venv / 'bin/python').symlink_to('/nowhere/python3.9')


@pytest.mark.slow_after_first
@pytest.mark.parametrize('damage', [break_off, remove_python])
@pytest.mark.parametrize('stamped', [True, False])
def test_a_broken_environment_is_made_anew(project, damage, stamped):
    bash(project)
    damage(project / '.venv')
    if not stamped:
        (project / '.venv/requirements.txt.installed').unlink(missing_ok=True)
    result, asked = bash(project)
    assert result.returncode == 0, result.stderr
    assert asked[:2] == ['venv', 'install requirements.txt'] and 'making .venv anew' in result.stdout


def test_another_python_in_the_environment_gets_its_own_packages(project):
    bash(project)
    fake(project, project / '.venv/bin/python', version='3.13.0')
    result, asked = bash(project)
    assert asked[0] == 'install requirements.txt'


def test_new_requirements_are_installed(project):
    bash(project)
    with open(project / 'requirements.txt', 'a') as file:
        file.write('another==1.0\n')
    assert bash(project)[1][0] == 'install requirements.txt'


@pytest.mark.slow_after_first
@pytest.mark.parametrize('name', ['.venv/bin/python', '{project}/.venv/bin/python', 'python3'])
@pytest.mark.parametrize('folder', ['.', '..'])
def test_a_python_that_is_named_is_used_from_everywhere_as_it_is(project, name, folder):
    bash(project)
    result, asked = bash(project, 'test.sh', cwd=project / folder, PYTHON=name.format(project=project))
    assert result.returncode == 0, result.stderr
    assert asked == ['run -m']


def test_a_python_is_looked_for_where_the_caller_stands_first(project):
    fake(project, project.parent / 'here/.venv/bin/python')
    result, asked = bash(project, 'test.sh', cwd=project.parent / 'here', PYTHON='.venv/bin/python')
    assert result.returncode == 0 and asked == ['run -m']


def test_a_python_that_is_not_there_is_one_line(project):
    result, asked = bash(project, PYTHON='nowhere/python')
    assert result.returncode == 2 and result.stderr.count('\n') == 1 and 'nowhere/python' in result.stderr
    assert asked == []


def test_no_python_at_all_is_one_line(project):
    (project / 'bin/python3').unlink()
    for name in ('bash', 'dirname', 'cat', 'cmp'):
        os.symlink(shutil.which(name), project / 'bin' / name)
    result, _ = bash(project, PATH=f'{project}/bin')
    assert result.returncode == 2 and result.stderr.count('\n') == 1 and 'Python 3.10' in result.stderr


@pytest.mark.parametrize('version', ['2.7.18', '3.9.2'])
def test_an_old_python_is_named_by_its_version(project, version):
    old = project / 'bin/python3'
    # Runs the code that it is given, with a `sys` of that version.
    old.write_text(f'#!/usr/bin/env bash\n'
                   f'exec {sys.executable} -c "import sys; sys.version_info = ({version.replace(".", ",")}); '
                   f'sys.version = \'{version} (default)\'; exec(sys.argv[1])" "$2"\n')
    for variables in ({}, {'PYTHON': str(old)}):
        result, _ = bash(project, **variables)
        assert result.returncode == 2 and not (project / '.venv').exists()
        assert result.stderr == f'error: Python 3.10 or newer is needed, this is {version}\n'
