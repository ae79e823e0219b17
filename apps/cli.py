"""The ``lightning`` command: LightningCLI in subclass mode, for every job of the package.

    lightning fit -c configs/ssd300.yaml
    lightning test -c configs/ssd300.yaml --ckpt_path last

The YAML names the classes; options on the command line override it. Besides what LightningCLI
does, runs get a directory each, checkpoints are atomic, ``--ckpt_path last`` finds the newest one
of all runs, and the number and names of the classes come from the data.
"""

import logging
import re
import sys
import warnings
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jsonargparse import ActionConfigFile  # pyright: ignore[reportPrivateImportUsage]
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from ..configs import find_config
from ..heads.checkpoint import class_paths
from ..heads.trust import trusting
from .callbacks.finders import FINDERS
from .callbacks.hints import TrainingHints
from .command import add_trust, friendly_errors
from .training.runs import (
    AtomicCheckpointIO,
    ResumableTrainer,
    keep_freed_memory,
    last_checkpoint,
    make_logger,
    next_version,
    run_loggers,
)

# Warnings on which the user cannot act.
_MISLEADING = (
    ".*LightningCLI's args parameter is intended to run from within Python",
    ".*Experiment logs directory .* exists and is not empty",  # two loggers share it
    ".*You're using the WeightAveraging callback, but loading a checkpoint outside the 'fit'",
    ".*The dirpath has changed from",  # each run has a directory of its own
    ".*is not supported by the model summary",
    ".*isinstance\\(treespec, LeafSpec\\)",
    "Found .* module\\(s\\) in eval mode at the start of training",  # model.freeze wants it so
)


# The usage of argparse would list every option, in lines of over a hundred characters.
_USAGES = {
    name: {"usage": f"lightning {name} -c CONFIG [-c CONFIG ...] [--OPTION VALUE ...]"}
    for name in ("fit", "validate", "test", "predict")
}


class ConfigFile(ActionConfigFile):
    """``--config``: a file, the name of a recipe of the package, or YAML itself."""

    def __call__(self, parser: Any, cfg: Any, values: str, *rest: Any) -> None:
        """Find the file; see ``find_config``."""
        found = values if re.search(r"[{\n]|: ", values) else str(find_config(values))
        super().__call__(parser, cfg, found, *rest)


class MobilevisionCLI(LightningCLI):
    """LightningCLI with this package's links and run directories."""

    def __init__(self, args: list[str] | None = None) -> None:
        with ExitStack() as self._trust:
            super().__init__(
                LightningModule,
                LightningDataModule,
                trainer_class=ResumableTrainer,
                trainer_defaults={"callbacks": [TrainingHints()]},
                subclass_mode_model=True,
                subclass_mode_data=True,
                args=args,
                parser_kwargs={"description": __doc__, **_USAGES},
            )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Make a parser with ``--config``, whose files may be recipes of the package."""
        kwargs.setdefault("dump_header", [f"lightning.pytorch=={version('lightning')}"])
        parser = self.parser_class(**kwargs)
        sentence = "Configuration: a YAML file, or a recipe of the package, such as quickstart."
        parser.add_argument("-c", "--config", action=ConfigFile, metavar="CONFIG", help=sentence)
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link the number and the names of the classes of the data to the model.

        Nothing is linked for a data module without classes, which lacks these attributes.
        """
        add_trust(parser)
        for source, target in (
            ("data.num_classes", "model.init_args.network.init_args.num_classes"),
            ("data.categories", "model.init_args.categories"),
        ):
            parser.link_arguments(source, target, apply_on="instantiate")

    def _parse_ckpt_path(self) -> None:
        """Do nothing: Lightning would override the options by those of the checkpoint."""

    def _add_instantiators(self) -> None:
        """Have loggers write into the run's directory, and finders know the tasks."""
        super()._add_instantiators()
        self.parser.add_instantiator(self._make_logger, Logger)
        for made, own in FINDERS.items():
            self.parser.add_instantiator(lambda _, own=own, **options: own(**options), made)

    def _make_logger(self, made: type[Logger], **options: Any) -> Logger:
        return make_logger(self._run_dir, made, **options)

    def before_instantiate_classes(self) -> None:
        """Resolve ``--ckpt_path last``, and trust the classes that the configuration names."""
        config = self.config[self.config.subcommand]
        root = _root(config.trainer)
        self._run_dir = root / f"version_{next_version(root)}"
        config.weights_only = True
        self._trust.enter_context(trusting([*config.trust, *class_paths(config.as_dict())]))
        if config.get("ckpt_path") == "last":
            config.ckpt_path = str(last_checkpoint(root))

    def after_instantiate_classes(self) -> None:
        """Make the folders that loggers take for granted."""
        for logger in self.trainer.loggers:
            if logger.save_dir and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
                Path(logger.save_dir).mkdir(parents=True, exist_ok=True)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer with atomic checkpoints and loggers that share the run's directory."""
        config = self._get(self.config_init, "trainer", default={})
        if not config.get("fast_dev_run"):
            kwargs["logger"] = run_loggers(self._run_dir, config.get("logger"))
        plugins = config.get("plugins") or []
        plugins = list(plugins) if isinstance(plugins, (list, tuple)) else [plugins]
        kwargs["plugins"] = [*plugins, AtomicCheckpointIO()]
        return super().instantiate_trainer(**kwargs)


def _root(trainer_config: Any) -> Path:
    return Path(trainer_config.get("default_root_dir") or "runs")


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return "litlogger" not in record.getMessage()  # Lightning's tip to use its cloud service


def lightning(args: list[str] | None = None) -> None:
    """Console script ``lightning``: run LightningCLI on ``args`` (default: the command line)."""
    keep_freed_memory()
    for message in _MISLEADING:
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_advertisement)
    with friendly_errors():
        MobilevisionCLI(args)


if __name__ == "__main__":
    lightning(sys.argv[1:])
