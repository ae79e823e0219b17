"""What the tasks share that learn attributes, alone or beside another job."""

from typing import Any, TypeVar

from ..evaluation import EvaluatedTask
from .job import AttributeJob

E = TypeVar("E")
R = TypeVar("R")


class DescribingTask(EvaluatedTask[E, R]):
    """A task with an ``AttributeJob``, whose facts its checkpoints hold."""

    job: AttributeJob

    metrics_file = "attribute_metrics.json"
    headline = "mean_ap"

    def count_labels(self) -> Any:
        """Count the labels that are trained on; return their data set, None where there is none."""
        data = getattr(self.trainer, "datamodule", None)
        dataset = getattr(data, "datasets", {}).get("train")
        if dataset is not None:
            self.facts["label_counts"] = dataset.label_counts.tolist()
        return dataset

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the plain facts, the attributes' names among them."""
        self.facts["attributes"] = self.job.names
        super().on_save_checkpoint(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the plain facts back.

        Raises:
            WeightsError: The checkpoint is of other attributes than the data.
        """
        super().on_load_checkpoint(checkpoint)
        self.job.check(self.facts)
