"""Hints about small data sets and the time of a training, by real short runs."""

from pathlib import Path

import pytest

from mobilevision.apps.callbacks import hints
from mobilevision.apps.cli import lightning


def hints_of(caplog: pytest.LogCaptureFixture, *words: str) -> list[str]:
    caplog.clear()
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        lightning(["fit", *words, "--trainer.limit_val_batches=0", "--trainer.callbacks=null"])
    return [each.getMessage() for each in caplog.records]


def test_hints__small_set__what_hurts_is_named_and_the_time(
    recipe: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said = hints_of(caplog, "-c", str(recipe), "--data.batch_size=2", "--trainer.max_epochs=2",
                    "--model.lr_scheduler.init_args.warmup_steps=50")  # fmt: skip
    text = "\n".join(said)
    assert "the warm-up of 50 steps is shortened to 1, a tenth of the training's 12" in text
    assert "begins without ImageNet weights, which 12 images do not replace" in text
    assert "configs/ssd300_modern.yaml learns small sets faster" in text
    assert "has only" not in text
    assert sum(line.startswith("An epoch of 6 batches takes about") for line in said) == 1


def test_hints__batch_too_large_and_weights_there__named_and_not(
    recipe: Path, begun_weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = ("-c", str(recipe), "--trainer.max_steps=1")
    weights = f"--model.weights={begun_weights}"
    text = "\n".join(hints_of(caplog, *one, weights, "--data.batch_size=16"))
    assert "a batch of 16 is larger than the training set (12 images)" in text
    assert "without ImageNet weights" not in text
    text = "\n".join(hints_of(caplog, *one, weights, "--data.batch_size=6"))
    assert "an epoch of 12 images has only 2 batches" in text


def test_hints__small_batches_and_resumed_trainings__nothing_about_them(
    recipe: Path, begun_weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    few = ("-c", str(recipe), "--trainer.limit_train_batches=1", "--trainer.max_epochs=1")
    assert "--data.batch_size" not in "\n".join(hints_of(caplog, *few, "--data.batch_size=2"))
    resumed = (*few[:2], f"--ckpt_path={begun_weights}", "--trainer.max_steps=2")
    assert "Hint" not in "\n".join(hints_of(caplog, *resumed, "--data.batch_size=6"))


@pytest.mark.parametrize(
    ("precision", "supported", "said"),
    [("bf16-mixed", False, True), ("bf16-mixed", True, False), ("32-true", False, False)],
)
def test_hints__bfloat16_on_a_cpu_without_it__named(
    recipe: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
    precision: str, supported: bool, said: bool,
) -> None:  # fmt: skip
    monkeypatch.setattr(hints, "cpu_has_bfloat16", lambda: supported)
    options = ("-c", str(recipe), "--trainer.max_steps=1", f"--trainer.precision={precision}")
    text = "\n".join(hints_of(caplog, *options))
    assert ("Try --trainer.precision=32-true" in text) == said


@pytest.fixture
def begun_weights(recipe: Path, tmp_path: Path) -> Path:
    lightning(["fit", "-c", str(recipe), "--trainer.max_steps=1", "--trainer.limit_val_batches=0",
               "--trainer.callbacks=null"])  # fmt: skip
    return next((tmp_path / "runs/version_0/checkpoints").glob("*.ckpt"))
