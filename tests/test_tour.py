"""docs/tour.ipynb runs from its first cell to its last, and its stored outputs come from its cells."""
import base64
import json
import os
import re

import pytest

from conftest import HERE

# The notebook's stop button sends its kernel this signal.
STOPPED = """
import signal

def stop(iteration, rows):
    if iteration == 250:
        os.kill(os.getpid(), signal.SIGINT)

stopped = train(dataset=data, out_dir='tour/stopped', quiet=True, callback=stop)
print(stopped.info[0]['finished'], stopped['iter'][-1] < 30_000)
"""
PATH = HERE / 'docs/tour.ipynb'
CELLS = [cell for cell in json.loads(PATH.read_text(encoding='utf-8'))['cells']
         if cell['cell_type'] == 'code']


def kinds(cell):
    """The kinds of a cell's outputs; printed texts in a row count as one output."""
    found = []
    for output in cell['outputs']:
        kind = sorted(output.get('data', [output.get('name')]))
        if [kind] != found[-1:] or kind != ['stdout']:
            found.append(kind)
    return found


@pytest.mark.slow
def test_the_notebook_runs_to_its_end_shows_what_it_shows_and_outlives_its_stop_button(tmp_path, monkeypatch):
    nbclient, nbformat = pytest.importorskip('nbclient'), pytest.importorskip('nbformat')
    pytest.importorskip('ipykernel')
    pytest.importorskip('pandas')
    for name in ('JUPYTER_RUNTIME_DIR', 'JUPYTER_CONFIG_DIR', 'IPYTHONDIR'):
        monkeypatch.setenv(name, str(tmp_path / name))
    environment = {name: value for name, value in os.environ.items() if name != 'MPLBACKEND'}
    notebook = nbformat.read(PATH, 4)
    notebook.cells.append(nbformat.v4.new_code_cell(STOPPED))
    folder = tmp_path / 'docs'
    folder.mkdir()
    nbclient.NotebookClient(notebook, timeout=300, resources={'metadata': {'path': str(folder)}}).execute(
        env=environment | {'PYTHONPATH': str(HERE), 'TOUR_STEPS': '500'})
    *made, last = [cell for cell in notebook.cells if cell.cell_type == 'code']
    assert [output['text'] for output in last.outputs if output.get('name') == 'stdout'] == ['False True\n']
    assert [kinds(cell) for cell in made] == [kinds(cell) for cell in CELLS]
    assert (folder / 'tour/n14/seed_1339/ckpt.pt').exists()


def test_the_notebook_shows_a_whole_run_in_ten_cells_and_is_small():
    text = PATH.read_text(encoding='utf-8')
    assert len(CELLS) == 10 and [cell['execution_count'] for cell in CELLS] == list(range(1, 11))
    assert len(text.encode()) < 200_000 and 'after 30,000 steps' in text
    assert not any(output['output_type'] == 'error' or output.get('name') == 'stderr'
                   for cell in CELLS for output in cell['outputs'])
    images = [output['data']['image/png'] for cell in CELLS for output in cell['outputs']
              if 'image/png' in output.get('data', {})]
    assert len(images) == 3 and all(base64.b64decode(image).startswith(b'\x89PNG') for image in images)
    shown = re.sub(r'"image/png": "[^"]*"', '', text)
    assert str(HERE) not in shown and '/home/' not in shown and '/tmp/' not in shown
