"""What the command line links from data to model, and what it leaves alone."""

from pathlib import Path

from mobilevision.apps.cli import lightning

BORING = "lightning.pytorch.demos.boring_classes"


def test_fit__of_a_job_without_classes_links_nothing(tmp_path: Path) -> None:
    lightning(
        ["fit", f"--model={BORING}.BoringModel", f"--data={BORING}.BoringDataModule",
         "--trainer.accelerator=cpu", "--trainer.max_steps=1", "--trainer.limit_val_batches=1",
         "--trainer.enable_progress_bar=false", f"--trainer.default_root_dir={tmp_path}"]
    )  # fmt: skip
    assert (tmp_path / "version_0" / "config.yaml").is_file()
    assert "num_classes" not in (tmp_path / "version_0" / "config.yaml").read_text()
