"""The benchmark of both face jobs runs, on sides that say the same."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def benchmark(repository: Path) -> ModuleType:
    path = repository / "benchmarks" / "face.py"
    spec = importlib.util.spec_from_file_location("benchmark_face", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_compare__costs_and_a_row_for_each_side_and_batch_size(
    benchmark: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    ratios = benchmark.compare(batch_sizes=(1, 2), rounds=1, size_hw=(40, 32), width_mult=0.25)
    assert list(ratios) == [1, 2]
    lines = capsys.readouterr().out.splitlines()
    two, one = (line.split()[2:] for line in lines[3:5])
    assert float(two[0]) == pytest.approx(2 * float(one[0]), rel=0.1)
    sides = [line[:14].strip() for line in lines[7:]]
    assert sides == [benchmark.TWO, benchmark.ONE] * 2


def test_make_sides__that_say_other_things__refused(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, embed, describe = benchmark.make_networks(0.25, (40, 32))
    embed.head.embedding.bias.data.add_(0.1)
    with pytest.raises(ValueError, match="differ by"):
        benchmark.make_sides((both, embed, describe), (40, 32))
    monkeypatch.setattr(benchmark, "LARGEST_DIFFERENCE", 2.0)
    assert set(benchmark.make_sides((both, embed, describe), (40, 32))) == {
        benchmark.TWO, benchmark.ONE
    }  # fmt: skip
