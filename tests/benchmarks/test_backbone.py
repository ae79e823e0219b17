"""The backbone benchmark runs, and refuses networks that do not agree."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch


@pytest.fixture(scope="module")
def benchmark(repository: Path) -> ModuleType:
    path = repository / "benchmarks" / "backbone.py"
    spec = importlib.util.spec_from_file_location("benchmark_backbone", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_compare__prints_a_row_for_each_variant(
    benchmark: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    try:
        benchmark.compare(batches=(1, 2), rounds=1, size=64, compiled=False)
    finally:
        torch.set_num_threads(threads)
    lines = capsys.readouterr().out.splitlines()
    names = [variant.name for variant in benchmark.make_variants(compiled=False)]
    assert [line[:26].strip() for line in lines[3:]] == names * 2
    assert lines[3].split()[-2:] == ["1.00x", "0e+00"]


def test_compare__without_a_compiler__says_so(
    benchmark: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark.shutil, "which", lambda _: None)
    benchmark.compare(batches=(), rounds=1)
    assert "no C++ compiler" in capsys.readouterr().out


def test_check__other_logits__are_refused(benchmark: ModuleType) -> None:
    peer, *_ = benchmark.make_variants(compiled=False)
    wrong = benchmark.Variant("wrong", lambda images: peer.network(images) * 1.001, peer.network)
    with pytest.raises(SystemExit, match="wrong: logits differ"):
        benchmark.check(wrong, torch.randn(1, 3, 64, 64))
