"""Logging to services that are optional packages: Weights & Biases and TensorBoard."""
import dataclasses
import importlib.util
from pathlib import Path
from statistics import mean

from tbtt.cli import UserError


def means(rows):
    """Each column's mean over the seeds."""
    return {name: mean(row[name] for row in rows) for name in rows[0]}


class WandbLog:
    """Rows as a run of Weights & Biases."""

    def __init__(self, config):
        import wandb
        self.run = wandb.init(project=config.wandb_project, config=dataclasses.asdict(config),
                              name=config.wandb_run_name or Path(config.out_dir).name)

    def log(self, iteration, rows):
        self.run.log(means(rows), step=iteration)

    def close(self):
        self.run.finish()


class TensorboardLog:
    """Rows as scalars in out_dir/tensorboard."""

    def __init__(self, config):
        from torch.utils.tensorboard import SummaryWriter
        self.writer = SummaryWriter(Path(config.out_dir) / 'tensorboard')

    def log(self, iteration, rows):
        for name, value in means(rows).items():
            self.writer.add_scalar(name, value, iteration)

    def close(self):
        self.writer.close()


KINDS = {'wandb_log': ('wandb', WandbLog), 'tensorboard_log': ('tensorboard', TensorboardLog)}


def wanted(config):
    """The classes of logs that the settings ask for. Raises `UserError` naming a package that is missing."""
    kinds = []
    for name, (package, kind) in KINDS.items():
        if getattr(config, name):
            if importlib.util.find_spec(package) is None:
                raise UserError(f'{name}=True needs the package {package}: pip install {package}')
            kinds.append(kind)
    return kinds
