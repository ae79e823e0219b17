"""The base of the LightningModules: weights, optimizer, losses, the run's directory."""

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..backbone.layers import calibrate_norms
from ..backbone.mobilenet import normalize_pixels
from ..datasets.errors import DataError
from .checkpoint import CHECKPOINT_ENTRY, CHECKPOINT_FORMAT, load_task
from .finetuning import Start, frozen_modules, start_from
from .trust import trusting

CALIBRATION_IMAGES = 64

MakeOptimizer = Callable[[Iterable], Optimizer]
MakeSchedule = Callable[[Optimizer, int], LRScheduler]


class ImageBatch(Protocol):
    """The fields of every batch, whatever the job."""

    @property
    def images(self) -> Tensor:
        """(B, 3, H, W) uint8, RGB."""
        ...

    @property
    def paths(self) -> tuple[str, ...]:
        """The files the images come from, for messages."""
        ...


class _Shared:
    """A function that copies of a task, such as averaged ones, share.

    One from the command line refers to the whole trainer, which cannot be copied under DDP.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Shared":
        return self


class ImageTask(LightningModule):
    """Base of the tasks: a network that takes uint8 images, and how it is trained.

    A job defines ``losses`` and its evaluation. Its constructor passes ``**options`` on, so that
    every task has all of these. Logs ``train/loss`` and its parts at each step. A checkpoint has an
    entry ``mobilevision`` with the size of the images (``size_hw``) and the origin of imported
    weights.

    Args:
        network: Takes (B, 3, H, W) uint8 RGB and normalizes by its ``pixel_mean`` and
            ``pixel_std``; ``weights`` fills its ``backbone`` and whatever else fits.
        weights: What the network starts from: a public name, a published file or a checkpoint of
            any job (see ``finetuning.start_from``), read when training starts and never when a
            checkpoint is loaded. A backbone that is no MobileNet takes its own state dict or a
            checkpoint that holds it.
        optimizer: Makes the optimizer from two groups of parameters; that of normalization and
            biases has no weight decay. None is SGD at 0.01 with momentum 0.9.
        lr_scheduler: Makes the schedule from the optimizer and the number of training steps;
            it advances after each step. None keeps the learning rate.
        channels_last: Keep the network and the images in the memory format that convolutions on
            CPUs and tensor cores prefer.
        decay_depthwise: False spares depthwise filters weight decay, since they have few
            parameters (Howard et al. 2017, end of Section 3.2).
        freeze: What training leaves as it is: ``backbone``, ``stage:N`` for the backbone up to
            stride 2^N, or ``norms`` for all batch normalization; None trains everything. Frozen
            layers stay in evaluation mode, so that their running statistics stay, too, and the
            optimizer does not get their parameters.
        compiled: Train the network through torch.compile, which takes minutes to begin and gained
            nothing on a CPU (docs/training.md); checkpoints are the same.

    Raises:
        DataError: No such part to freeze.
    """

    kind: ClassVar[str] = "a network of images"
    """Name of its network in messages."""
    keeps_crop = False
    """Whether checkpoints hold ``crop_fraction``, the central part of an image that evaluation
    takes, see ``CenterCrop``; None is the whole image, stretched."""

    def __init__(
        self,
        network: nn.Module,
        weights: str | None = None,
        optimizer: MakeOptimizer | None = None,
        lr_scheduler: MakeSchedule | None = None,
        channels_last: bool = False,
        decay_depthwise: bool = True,
        freeze: str | None = None,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self._save_plain_hyperparameters()
        self.network = network
        self.weights = weights
        self.make_optimizer = None if optimizer is None else _Shared(optimizer)
        self.make_schedule = None if lr_scheduler is None else _Shared(lr_scheduler)
        self.channels_last = channels_last
        self.decay_depthwise = decay_depthwise
        self.compiled = compiled
        self.run_dir = Path()
        self.learning_rate: float | None = None
        """What a finder found, in place of the optimizer's own; None before."""
        self.searching = False
        """Whether a finder takes steps, which end where the loss is not finite."""
        self.metadata: dict[str, Any] = {"format": CHECKPOINT_FORMAT}
        """Plain data beside the weights in every checkpoint, such as ``size_hw``."""
        if channels_last:
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.freeze_part = freeze
        if freeze is not None:
            for module in frozen_modules(network, freeze):
                module.requires_grad_(False).eval()

    def _save_plain_hyperparameters(self) -> None:
        """Keep the hyper-parameters in checkpoints that are plain data.

        From the command line Lightning has class paths and arguments. From Python it has objects,
        which ``weights_only=True`` would refuse to load: pass them to ``load_from_checkpoint``.
        """
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Attribute .* is an instance of `nn.Module`")
            self.save_hyperparameters(frame=inspect.currentframe().f_back)  # type: ignore[union-attr]
        for name, value in dict(self.hparams).items():
            if callable(value):  # a module, or what makes an optimizer
                self.hparams.pop(name)

    @property
    def training_dataset(self) -> Any:
        """The training dataset of the data module; None where there is none."""
        data = getattr(self.trainer, "datamodule", None)
        return getattr(data, "datasets", {}).get("train")

    @property
    def class_names(self) -> list[str]:
        """Names of the classes in the order of the network's rows; empty where there are none."""
        return list(getattr(self, "categories", {}).values())

    def forward(self, images: Tensor) -> Any:
        """Return the network's output for images (B, 3, H, W) uint8 RGB."""
        order = torch.channels_last if self.channels_last else torch.contiguous_format
        return self.network(images.contiguous(memory_format=order))

    def losses(self, output: Any, batch: Any) -> dict[str, Tensor]:
        """Return the parts of the loss, scalars to be summed, in training and in evaluation."""
        raise NotImplementedError

    # --- training

    def setup(self, stage: str) -> None:
        """Fill the network before training; a checkpoint, if there is one, is loaded after."""
        # log_dir is a collective call under DDP: every process asks for it, here and only here.
        self.run_dir = Path(self.trainer.log_dir or self.trainer.default_root_dir)
        if self.compiled and stage == "fit":
            self.network.compile()  # in place, so that no name gets a prefix
        data = getattr(self.trainer, "datamodule", None)
        if self.keeps_crop and stage == "fit" and data is not None:
            self.metadata["crop_fraction"] = getattr(data.val_transform, "fraction", None)
        if stage != "fit" or self.trainer.ckpt_path is not None:
            return
        if self.weights is None:
            if self.freeze_part not in (None, "norms"):
                rank_zero_warn(
                    f"freeze={self.freeze_part} without weights keeps what the network was made "
                    "with: name what it starts from, with --model.weights"
                )
            return
        start = start_from(self.network, self.class_names, self.weights)
        rank_zero_info(start.table)
        activation = getattr(start.backbone, "activation", start.weights.activation)
        if start.weights.activation != activation:
            rank_zero_warn(
                f"weights: {start.weights.path} was trained with {start.weights.activation}, the "
                f"backbone has {activation}: it starts from them and has to be trained"
            )
        self._calibrate(start)
        self.train(self.training)  # frozen layers are in evaluation mode again

    def _calibrate(self, start: Start) -> None:
        """Give folded weights their batch normalization back, on images of this data."""
        if not (start.weights.folded or start.folded):
            return
        data = getattr(self.trainer, "datamodule", None)
        if data is None:
            raise DataError(
                f"weights: {self.weights} needs training images before training starts; give "
                "fit() a data module in place of loaders, or load the weights yourself"
            )
        collected: list[Tensor] = []
        for batch in data.train_dataloader():
            collected.extend(batch.images)
            if len(collected) >= CALIBRATION_IMAGES:
                break
        batches = [torch.stack(collected[i : i + 16]) for i in range(0, len(collected), 16)]
        if start.weights.folded:
            mean, std = cast(float, self.network.pixel_mean), cast(float, self.network.pixel_std)
            pixels = (normalize_pixels(batch, mean, std) for batch in batches)
            calibrate_norms(start.backbone, pixels)
        if start.folded:
            calibrate_norms(self.network, batches, start.folded)
        rank_zero_info(f"Batch normalization calibrated on {len(collected)} training images")

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all but frozen layers, which stay in evaluation mode."""
        super().train(mode)
        if self.freeze_part is not None:
            for module in frozen_modules(self.network, self.freeze_part):
                module.eval()
        return self

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        self.metadata["size_hw"] = [int(size) for size in batch.images.shape[-2:]]
        losses = self.losses(self(batch.images), batch)
        return self.log_losses("train", losses, batch, batch_idx)

    def configure_optimizers(self) -> Any:
        """Return the optimizer and the schedule that were given, or the default."""
        spared = set() if self.decay_depthwise else _depthwise_filters(self)
        decayed, plain = [], []
        for parameter in self.parameters():
            if parameter.requires_grad:
                spare = parameter.ndim <= 1 or parameter in spared
                (plain if spare else decayed).append(parameter)
        groups = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
        if self.learning_rate is not None:
            groups = [{**group, "lr": self.learning_rate} for group in groups]
        make = self.make_optimizer
        optimizer = make(groups) if make else SGD(groups, lr=0.01, momentum=0.9, weight_decay=4e-5)
        if self.make_schedule is None:
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = self.make_schedule(optimizer, steps)
        advanced = {"scheduler": schedule, "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": advanced}

    def log_losses(
        self, stage: str, losses: Mapping[str, Tensor], batch: ImageBatch, batch_idx: int
    ) -> Tensor:
        """Sum the parts of a batch's loss and log them under ``stage``.

        Raises:
            DataError: The sum is not finite; the message names the images.
        """
        total = torch.stack(list(losses.values())).sum()
        if self.searching and not torch.isfinite(total):
            self.trainer.should_stop = True
        elif not torch.isfinite(total):
            parts = ", ".join(f"{name} {value.item()}" for name, value in losses.items())
            raise DataError(
                f"the {stage} loss is not a finite number in epoch {self.current_epoch}, batch "
                f"{batch_idx} ({parts}). The images of this batch: {', '.join(batch.paths)}. "
                "Lower the learning rate, lengthen the warm-up or clip gradients "
                "(--trainer.gradient_clip_val=10); if it comes at once, look at these files."
            )
        named = {f"{stage}/loss_{name}": value.detach() for name, value in losses.items()}
        named[f"{stage}/loss"] = total.detach()
        training = stage == "train"
        self.log_dict(named, batch_size=len(batch.images), sync_dist=not training, on_step=training,
                      on_epoch=not training)  # fmt: skip
        if training:
            self.log("loss", total.detach(), prog_bar=True, logger=False)
        return total

    # --- checkpoints

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | Path,
        map_location: Any = "cpu",
        trust: Iterable[str] = (),
        strict: bool | None = None,
        weights_only: bool = True,
        **overrides: Any,
    ) -> Self:
        """Rebuild the task of a checkpoint of plain data; see ``heads.checkpoint.load_task``.

        The checkpoint may also name classes of the packages in ``trust``; ``overrides`` are
        arguments of the task in place of those of training.

        Raises:
            CheckpointError: It cannot be read or rebuilt, or names a class that is not trusted.
        """
        if not weights_only:
            raise ValueError("checkpoints are read with weights_only=True, and in no other way")
        with trusting(trust):
            return load_task(checkpoint_path, cls, map_location, strict, **overrides)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the metadata."""
        checkpoint[CHECKPOINT_ENTRY] = dict(self.metadata)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the plain metadata, and check the shapes of the network."""
        _require_same_shapes(self, checkpoint)
        self.metadata = dict(cast(dict, checkpoint.get(CHECKPOINT_ENTRY, self.metadata)))


def _require_same_shapes(task: ImageTask, checkpoint: dict[str, Any]) -> None:
    """Raise a DataError of one sentence in place of torch's page."""
    stored = cast(dict[str, Tensor], checkpoint.get("state_dict", {}))
    differing = [
        f"{name} {tuple(stored[name].shape)} and not {tuple(value.shape)}"
        for name, value in task.network.state_dict(prefix="network.").items()
        if name in stored and stored[name].shape != value.shape
    ]
    if not differing:
        return
    stored_names = (checkpoint.get("hyper_parameters") or {}).get("categories")
    names = task.hparams.get("categories")
    if stored_names is not None and names is not None and len(stored_names) != len(names):
        what = f"is for {len(stored_names)} classes, and this network for {len(names)}"
        remedy = "to train on other classes, start from it"
    else:
        what = f"is of another network: it has {differing[0]}"
        remedy = "give the options of the config.yaml of its run, or start from it"
    raise DataError(
        f"the checkpoint {what}; {remedy}, with --model.weights=CHECKPOINT in place of --ckpt_path"
    )


def _depthwise_filters(module: nn.Module) -> set[nn.Parameter]:
    return {
        cast(nn.Parameter, layer.weight)
        for layer in module.modules()
        if isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1
    }
