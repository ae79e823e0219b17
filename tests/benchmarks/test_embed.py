"""The embedding benchmark runs, on sides that say the same where they should."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("facenet_pytorch")


@pytest.fixture(scope="module")
def benchmark(repository: Path) -> ModuleType:
    path = repository / "benchmarks" / "embed.py"
    spec = importlib.util.spec_from_file_location("benchmark_embed", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_compare__a_row_for_each_side_and_batch_size(
    benchmark: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    ratios = benchmark.compare(batch_sizes=(1, 2), rounds=1, size=96)
    rows = capsys.readouterr().out.splitlines()[3:]
    sides = [benchmark.TEACHER, benchmark.PLAIN, benchmark.OURS]
    assert list(ratios) == [(side, batch) for batch in (1, 2) for side in sides]
    assert [row[: len(side)] for row, side in zip(rows, sides * 2, strict=True)] == sides * 2
    assert [ratios[benchmark.TEACHER, batch] for batch in (1, 2)] == [1, 1]


def test_make_sides__folding_that_changes_embeddings(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "LARGEST_DIFFERENCE", 0.0)
    with pytest.raises(ValueError, match="folding changed embeddings"):
        benchmark.make_sides(96)
