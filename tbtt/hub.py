"""Find files of models that others made: in a folder, in the local Hugging Face cache, or on the hub."""
from pathlib import Path

from tbtt.cli import UserError, study_package

GPT2 = ('gpt2', 'gpt2-medium', 'gpt2-large', 'gpt2-xl')
OWNER = 'openai-community'    # of these models on the hub


def find(name: str, file: str, download: bool) -> Path | None:
    """The path of a model's file, or None if the file is not found. name: a folder, or one of `GPT2`, which
    is looked up in the cache and, with `download`, on the hub.

    Raises `UserError` if there is no such model, or the hub cannot be reached.
    """
    if Path(name).is_dir():
        path = Path(name) / file
        return path if path.is_file() else None
    if name not in GPT2:
        raise UserError(f'{name} is neither a folder nor one of {", ".join(GPT2)}')
    library = study_package('huggingface_hub')
    for repository in (f'{OWNER}/{name}', name):    # older programs cached it under the second name
        cached = library.try_to_load_from_cache(repository, file)
        if isinstance(cached, str):
            return Path(cached)
    return fetch(f'{OWNER}/{name}', file) if download else None


def fetch(repository: str, file: str) -> Path | None:
    """Download a file into the cache; None where the repository has no such file."""
    library = study_package('huggingface_hub')
    errors = study_package('huggingface_hub.errors')
    try:
        return Path(library.hf_hub_download(repository, file))
    except errors.RemoteEntryNotFoundError:
        return None
    except Exception as error:    # the network raises nearly anything
        raise UserError(f'{repository}/{file} cannot be downloaded ({type(error).__name__}: '
                        f'{str(error)[:150]})') from error


def get(name: str, file: str, download: bool) -> Path:
    """As `find`, for a file that has to exist. Raises `UserError` if it does not."""
    if (path := find(name, file, download)) is not None:
        return path
    if Path(name).is_dir():
        raise UserError(f'{Path(name) / file} is not there')
    raise UserError(f"no {file} of {name} in this machine's Hugging Face cache: --download fetches it, or "
                    'name a folder that has it')


def read_text(path: Path) -> str:
    """The text of a file. Raises `UserError` if it is not UTF-8."""
    try:
        return path.read_text(encoding='utf-8')
    except UnicodeDecodeError as error:
        raise UserError(f'{path} is damaged: {error}') from error
