"""Settings: what the config files come to, how they build on each other, and what a setting may be."""
import dataclasses
import json

import pytest
from conftest import HERE

from tbtt.config import load_config

# All settings of each config file as they were when the files still stated them one by one.
SETTINGS = json.loads((HERE / 'tests/settings.json').read_text())


def resolved(*files, **overrides):
    """{name: value} of all settings that files and overrides come to."""
    return dataclasses.asdict(load_config([str(path) for path in files], overrides))


@pytest.mark.parametrize('name', SETTINGS['configs'])
def test_a_config_file_means_what_it_always_meant(name):
    expected = SETTINGS['defaults'] | SETTINGS['configs'][name]
    found = resolved(HERE / f'config/{name}.py')
    assert {setting: found[setting] for setting in expected} == expected
