"""The training-step benchmark runs, and its variants train the same network."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch


@pytest.fixture(scope="module")
def benchmark(repository: Path) -> ModuleType:
    path = repository / "benchmarks" / "training_step.py"
    spec = importlib.util.spec_from_file_location("benchmark_training_step", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_compare__prints_a_row_for_each_variant(
    benchmark: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark.compare(batches=(2,), rounds=1, width_mult=0.25, size=96)
    lines = capsys.readouterr().out.splitlines()
    assert [line[:20].strip() for line in lines[3:]] == [one.name for one in benchmark.VARIANTS]
    assert lines[3].split()[4] == "1.00x"


def test_step__variants__start_from_the_same_loss_and_lower_it(benchmark: ModuleType) -> None:
    images, target = benchmark.random_batch(2, 96)
    for variant in benchmark.VARIANTS:
        trainer = benchmark.Trainer(variant, 0.25)
        losses = [trainer.step(images, target).loss for _ in range(4)]
        plain = benchmark.Trainer(benchmark.VARIANTS[0], 0.25).step(images, target).loss
        tolerance = 2e-2 if variant.bfloat16 else 1e-4
        assert losses[0] == pytest.approx(plain, rel=tolerance)
        assert losses[-1] < losses[0]


def test_trainer__channels_last__is_the_layout_of_the_kernels(benchmark: ModuleType) -> None:
    kernels = {
        variant.name: benchmark.Trainer(variant, 0.25).network.extras[0].shrink.conv.weight
        for variant in benchmark.VARIANTS
    }
    for variant in benchmark.VARIANTS:
        kernel = kernels[variant.name]
        assert kernel.dtype == torch.float32
        is_last = kernel.is_contiguous(memory_format=torch.channels_last)
        assert is_last == variant.channels_last
