import subprocess
import sys

import pytest

from mobilevision.apps.training.runs import keep_freed_memory

# How many pages a process faults in while it makes and drops a 64 MiB tensor ten times. Some are
# faulted in again even so, as the heap's end moves.
COUNT = """
import resource, sys, torch
if sys.argv[1] == "keep":
    from mobilevision.apps.training.runs import keep_freed_memory
    assert keep_freed_memory()
for _ in range(5):
    torch.ones(16 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(16 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", COUNT, how], check=True, capture_output=True, text=True
    )
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's settings")
def test_kept_memory__is_not_faulted_in_again() -> None:
    assert page_faults("keep") < 0.8 * page_faults("plain")


def test_other_platforms__are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
