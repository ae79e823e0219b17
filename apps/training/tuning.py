"""A search for hyper-parameters by Optuna: trainings of one configuration with other options."""

import hashlib
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ...backbone.errors import import_extra
from ...datasets.errors import DataError
from ...datasets.files import replaced_atomically, write_atomically, write_csv
from ..costs.networks import entry, read_config
from ..drawing import write_figure
from .runs import last_version
from .sweep import Outcome, Run, run_grid

STUDY_FILE = "study.db"
TABLE_FILE = "trials.csv"
BEST_FILE = "best.yaml"
FIGURES = {
    "history": "plot_optimization_history",
    "epochs": "plot_intermediate_values",
    "parameters": "plot_slice",
    "importance": "plot_param_importances",
}
"""Name of a picture -> Optuna's function that draws it."""

_STUDY = "tune"
_CALLBACK = "mobilevision.apps.callbacks.pruning.Pruning"
_FORMS = "log:1e-3..1e-1, linear:0..1, int:1..8 or categorical:16,32"


def read_params(words: Sequence[str]) -> dict[str, Any]:
    """Read ``OPTION=KIND:VALUES`` as Optuna's distributions by option.

    Raises:
        DataError: A word has another form, or bounds in the wrong order.
        WeightsError: Optuna is not installed.
    """
    optuna = import_extra("optuna", "'mobilevision[tune]'", "mobilevision tune")
    params = {}
    for word in words:
        name, _, spec = word.partition("=")
        kind, _, values = spec.partition(":")
        if name in params:
            raise DataError(f"--param {word}: {name} varies already; give it once")
        try:
            params[name] = _distribution(optuna.distributions, kind, values)
        except ValueError as error:
            raise DataError(f"--param {word}: write OPTION={_FORMS} ({error})") from error
    if not params:
        raise DataError(f"--param: name what varies, as in model.optimizer.lr={_FORMS}")
    return params


def _distribution(made: Any, kind: str, values: str) -> Any:
    if kind == "categorical":
        return made.CategoricalDistribution([each.strip() for each in values.split(",")])
    low, _, high = values.partition("..")
    if kind == "int":
        return made.IntDistribution(int(low), int(high))
    if kind not in {"log", "linear"}:
        raise ValueError(f"no kind {kind!r}")
    return made.FloatDistribution(float(low), float(high), log=kind == "log")


def monitored(config: Path) -> tuple[str, str]:
    """Return the metric and the mode ("min" or "max") of a configuration's ModelCheckpoint.

    Raises:
        DataError: It has none that monitors something.
    """
    for callback in entry(read_config(config), "trainer", "callbacks") or ():
        options = entry(callback, "init_args") or {}
        if str(entry(callback, "class_path")).endswith("ModelCheckpoint") and options.get(
            "monitor"
        ):
            return options["monitor"], options.get("mode", "min")
    raise DataError(
        f"{config}: no ModelCheckpoint has a monitor, so trials cannot be compared; add one with "
        "monitor and mode to trainer.callbacks"
    )


@dataclass(frozen=True)
class Search:
    """A search.

    Attributes:
        config: Configuration of ``lightning fit``.
        params: Optuna's distributions by option.
        fit: Further options of every training.
        out: Folder of the study, its trainings and its results.
        seed: Of the sampler, at least 0.
    """

    config: Path
    params: dict[str, Any]
    fit: tuple[str, ...]
    out: Path
    seed: int = 0

    @property
    def storage(self) -> str:
        """The address of the study's database."""
        return f"sqlite:///{self.out / STUDY_FILE}"

    def open(self) -> Any:
        """Create or continue the study.

        Raises:
            DataError: The folder holds a study of something else.
        """
        optuna = import_extra("optuna", "'mobilevision[tune]'", "mobilevision tune")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        monitor, mode = monitored(self.config)
        self.out.mkdir(parents=True, exist_ok=True)
        study = optuna.create_study(
            storage=self.storage, study_name=_STUDY, load_if_exists=True,
            direction="maximize" if mode == "max" else "minimize",
        )  # fmt: skip
        # A continued study would draw the first trials again.
        study.sampler = optuna.samplers.TPESampler(seed=self.seed + len(study.trials))
        wanted = {
            "config": hashlib.sha256(self.config.read_bytes()).hexdigest(),
            "params": {name: repr(each) for name, each in self.params.items()},
            "fit": list(self.fit),
            "monitor": monitor,
        }
        for name, value in wanted.items():
            if study.user_attrs.get(name, value) != value:
                raise DataError(
                    f"{self.out}: holds a search with another {name}. Remove it or name another "
                    "folder with --out."
                )
            study.set_user_attr(name, value)
        return study

    def run_of(self, trial: Any) -> Run:
        """Return the training of a trial."""
        place = {"storage": self.storage, "study": _STUDY, "trial": trial._trial_id,
                 "monitor": monitored(self.config)[0]}  # fmt: skip
        callback = json.dumps({"class_path": _CALLBACK, "init_args": place})
        options = (f"--{name}={value}" for name, value in trial.params.items())
        args = ("fit", "-c", str(self.config), *self.fit, *options,
                f"--trainer.callbacks+={callback}")  # fmt: skip
        return Run(f"trial {trial.number}", args, self.out / f"trial_{trial.number}")


def tune(search: Search, trials: int) -> tuple[Any, list[Outcome]]:
    """Train until there are ``trials`` trials, with those of earlier calls.

    Returns the study and the trainings of this call. An interrupted trial goes on where it was. The
    value of a trial is the best of its validations.

    Raises:
        DataError: As ``Search.open`` raises, or a training did not begin and none did before.
    """
    study, outcomes = search.open(), []
    for trial in _trials(search, study, trials):
        (outcome,) = run_grid([search.run_of(trial)], f"trial {trial.number + 1} of {trials}")
        _tell(study, trial, outcome)
        outcomes.append(outcome)
        if outcome.version is None and not any(x.intermediate_values for x in study.trials):
            raise DataError(f"the first trial did not begin to train: {outcome.message}")
    return study, outcomes


def _trials(search: Search, study: Any, count: int) -> Iterator[Any]:
    """Yield interrupted trials and then new ones, each when the one before has ended."""
    yield from [each for each in study.trials if not each.state.is_finished()]
    while len(study.trials) < count:
        study.ask(search.params)
        yield study.trials[-1]


def _tell(study: Any, trial: Any, outcome: Outcome) -> None:
    optuna = import_extra("optuna", "'mobilevision[tune]'", "mobilevision tune")
    state, now = optuna.trial.TrialState, study.trials[trial.number]
    values = [each for each in now.intermediate_values.values() if math.isfinite(each)]
    best_of = max if study.direction.name == "MAXIMIZE" else min
    if not outcome.succeeded or not values:
        study.tell(trial.number, state=state.FAIL)
    elif now.user_attrs.get("pruned"):
        study.tell(trial.number, state=state.PRUNED)
    else:
        study.tell(trial.number, best_of(values))


def write_results(search: Search, study: Any) -> str:
    """Write the table, Optuna's pictures and the best configuration; return the table as text."""
    names = list(search.params)
    heading = ["trial", "state", study.user_attrs["monitor"], "epochs", *names, "run"]
    rows = []
    for each in study.trials:
        folder = search.run_of(each).directory
        run = last_version(folder) or folder
        params = [each.params.get(name) for name in names]
        epochs = len(each.intermediate_values)
        rows.append([each.number, each.state.name.lower(), each.value, epochs, *params, run])
    with replaced_atomically(search.out / TABLE_FILE) as temporary:
        write_csv(temporary, heading, rows)
    _write_figures(search, study)
    cells = [[_cell(value) for value in row[:-1]] for row in [heading, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(map(str.rjust, row, widths)) for row in cells)
    return "\n".join([*lines, _write_best(search, study)])


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _write_figures(search: Search, study: Any) -> None:
    """Draw what there are enough trials for."""
    import warnings

    import matplotlib

    optuna = import_extra("optuna", "'mobilevision[tune]'", "mobilevision tune")
    from matplotlib import pyplot

    for name, function in FIGURES.items():
        with matplotlib.rc_context({"figure.constrained_layout.use": True}), \
                warnings.catch_warnings():  # fmt: skip
            warnings.simplefilter("ignore")  # of few trials, and that pictures are experimental
            pyplot.switch_backend("agg")
            try:
                axes = getattr(optuna.visualization.matplotlib, function)(study)
            except (ValueError, RuntimeError) as error:
                print(f"{name}.png is not drawn: {error}", file=sys.stderr)
                continue
            figure = getattr(axes, "figure", None) or axes.flat[0].figure
            write_figure(figure, search.out / f"{name}.png")
            pyplot.close(figure)


def _write_best(search: Search, study: Any) -> str:
    """Write the configuration of the best trial, and return a sentence about it."""
    finished = [each for each in study.trials if each.state.name == "COMPLETE"]
    if not finished:
        return "No trial has finished."
    best = study.best_trial
    run = last_version(search.run_of(best).directory)
    monitor = study.user_attrs["monitor"]
    sentence = f"Best: trial {best.number} with {monitor} {best.value:.4g}"
    if run is None:
        return f"{sentence}, whose run was removed: {BEST_FILE} is not written"
    settings = read_config(run / "config.yaml")
    trainer = settings["trainer"]
    trainer["callbacks"] = [x for x in trainer["callbacks"] if x["class_path"] != _CALLBACK]
    root = entry(read_config(search.config), "trainer", "default_root_dir")
    trainer["default_root_dir"] = root
    settings["ckpt_path"] = None
    path = search.out / BEST_FILE
    write_atomically(path, yaml.safe_dump(settings, sort_keys=False).encode())
    return f"{sentence}, {path}"
