"""The house keeps its shape: arrows between folders, and the size of files and functions."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = "mobilevision"
ARROWS = {
    "backbone": set(),
    "datasets": set(),
    "configs": {"datasets"},
    "heads": {"backbone", "datasets"},
    "apps": {"backbone", "datasets", "configs", "heads"},
}
"""Folder -> the folders that it may import besides itself."""
APPS_ARROWS = {
    "batch": {"costs", "drawing", "error_report", "inference"},
    "benchmark": {"drawing", "export", "inference", "public"},
    "callbacks": {"confusion", "drawing", "error_report"},
    "confusion": {"drawing"},
    "cli": {"callbacks", "command", "training"},
    "commands": {
        "batch", "benchmark", "callbacks", "command", "costs", "drawing",
        "error_report", "export", "faces",
        "importing", "inference", "public", "training",
    },
    "costs": {"drawing"},
    "error_report": {"confusion", "drawing"},
    "export": {"batch", "inference"},
    "faces": {"batch", "inference", "training"},
    "inference": {"drawing", "public"},
    "main": {"cli", "command", "commands", "public"},
    "public": {"importing"},
    "training": {"costs", "drawing"},
}  # fmt: skip
"""Folder or file of apps/ -> those beside it that it may import, also when it is called."""
QUIET = Path("datasets/transforms/quiet_albumentations.py")
MAX_FILE_LINES = 600
MAX_BODY_LINES = 60


def find_violations(root: Path) -> list[str]:
    """What is wrong in the tree at ``root``, each with file and line."""
    found = [
        f"{path.relative_to(root)}:{line}: {problem}"
        for folder in ARROWS
        for path in sorted((root / folder).rglob("*.py"))
        for line, problem in problems_of(path, path.relative_to(root))
    ]
    if (root / "datasets" / "__init__.py").exists():
        found.append("datasets/__init__.py: hides Hugging Face's datasets in the repository root")
    return found


def problems_of(path: Path, inside: Path) -> Iterator[tuple[int, str]]:
    source = path.read_text()
    if source.count("\n") > MAX_FILE_LINES:
        yield MAX_FILE_LINES, f"the file has more than {MAX_FILE_LINES} lines"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((node.lineno, problem) for problem in import_problems(node, inside))
            if asks_a_server(node) and inside != QUIET:
                yield node.lineno, f"albumentations asks a server at import: take A from {QUIET}"
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = body_length(node)
            if length > MAX_BODY_LINES:
                yield node.lineno, f"{node.name} has a body of {length} lines"


def import_problems(node: ast.Import | ast.ImportFrom, inside: Path) -> Iterator[str]:
    folder = inside.parts[0]
    if isinstance(node, ast.Import):
        modules = [alias.name for alias in node.names]
        yield from (absolute_problem(name) for name in modules if is_ours(name))
    elif not node.level:
        if is_ours(node.module or ""):
            yield absolute_problem(node.module or "")
    else:
        here = [PACKAGE, *inside.parts[:-1]]
        base = here[: max(0, len(here) - node.level + 1)]
        for alias in node.names:
            target = [*base, *(node.module or "").split("."), alias.name]
            rooms = [part for part in target if part][1:]
            if not base:
                yield f"a relative import that leaves {PACKAGE}"
            elif rooms[0] != folder and rooms[0] not in ARROWS[folder]:
                yield f"{folder} must not import {rooms[0]}"


def asks_a_server(node: ast.Import | ast.ImportFrom) -> bool:
    modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    modules += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
    return any(module.split(".", maxsplit=1)[0] == "albumentations" for module in modules)


def is_ours(module: str) -> bool:
    return module.split(".", maxsplit=1)[0] in {PACKAGE, *ARROWS}


def absolute_problem(module: str) -> str:
    return f"absolute import of {module}: imports inside the package are relative"


def body_length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from the first statement to the last; a docstring does not count."""
    has_docstring = ast.get_docstring(function) is not None
    statements = function.body[1:] if has_docstring else function.body
    if not statements:
        return 0
    return (statements[-1].end_lineno or 0) - statements[0].lineno + 1


def imported(path: Path, modules: dict[str, Path], root: Path, late: bool) -> set[str]:
    """Modules of the tree that a file imports, with ``late`` also those inside functions.

    What is imported for type checkers alone does not count.
    """
    parts = path.relative_to(root).with_suffix("").parts
    here = parts[:-1]
    found = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.FunctionDef) and not late:
            continue
        if isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - node.level + 1]
            target = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            named = {f"{target}.{alias.name}" for alias in node.names}
            found |= {name if name in modules else target for name in named}
        waiting += ast.iter_child_nodes(node)
    return (found & modules.keys()) - {".".join(parts)}


def import_graph(root: Path, late: bool = False) -> dict[str, set[str]]:
    files = {path for folder in ARROWS for path in (root / folder).rglob("*.py")}
    modules = {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for path in files
    }
    return {name: imported(path, modules, root, late) for name, path in modules.items()}


def test_imports__this_repository__no_circle(repository: Path) -> None:
    graph = import_graph(repository)
    assert len(graph) > 150
    TopologicalSorter(graph).prepare()  # raises CycleError with the circle


def test_imports__made_up_circle__found(tmp_path: Path) -> None:
    write_module(tmp_path, "heads/a.py", "from .job.b import x\n")
    write_module(tmp_path, "heads/job/b.py", "from ..c import x\n")
    write_module(tmp_path, "heads/c.py", "from . import a\n")
    with pytest.raises(CycleError, match="in a cycle") as caught:
        TopologicalSorter(import_graph(tmp_path)).prepare()
    assert {"heads.a", "heads.job.b", "heads.c"} == set(caught.value.args[1])
    late = "def f():\n    from . import a\nif TYPE_CHECKING:\n    from . import a\n"
    write_module(tmp_path, "heads/c.py", late)
    TopologicalSorter(import_graph(tmp_path)).prepare()
    assert import_graph(tmp_path, late=True)["heads.c"] == {"heads.a"}


def test_imports__between_the_folders_of_apps__go_one_way(repository: Path) -> None:
    found: dict[str, set[str]] = {}
    for name, targets in import_graph(repository, late=True).items():
        own = name.split(".")
        for target in targets:
            other = target.split(".")
            if own[0] == other[0] == "apps" and len(own) > 1 and own[1] != other[1]:
                found.setdefault(own[1], set()).add(other[1])
    assert found == APPS_ARROWS
    TopologicalSorter(found).prepare()


def write_module(root: Path, name: str, source: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)


def test_tree__this_repository__no_violations(repository: Path) -> None:
    assert find_violations(repository) == []


@pytest.mark.parametrize("folder", ARROWS)
def test_tree__this_repository__every_folder_is_looked_at(repository: Path, folder: str) -> None:
    assert list((repository / folder).rglob("*.py"))


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("backbone/a.py", "from ..heads.b import c\n", "1: backbone must not import heads"),
        ("backbone/a.py", "from ..datasets import types\n", "1: backbone must not import datasets"),
        ("datasets/a.py", "from .. import backbone\n", "1: datasets must not import backbone"),
        ("heads/job/a.py", "from ...apps.b import c\n", "1: heads must not import apps"),
        ("heads/a.py", "from ..configs import b\n", "1: heads must not import configs"),
        (
            "heads/job/a.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ...apps import b\n",
            "3: heads must not import apps",
        ),
        (
            "datasets/a.py",
            "class A:\n    def b(self):\n        from ..heads import c\n",
            "3: datasets must not import heads",
        ),
        ("apps/a.py", "from ...b import c\n", "1: a relative import that leaves mobilevision"),
        ("apps/a.py", "from .....b import c\n", "1: a relative import that leaves mobilevision"),
        (
            "apps/a.py",
            "from mobilevision.heads import b\n",
            "1: absolute import of mobilevision.heads: imports inside the package are relative",
        ),
        (
            "heads/a.py",
            "import mobilevision.heads.b as b\n",
            "1: absolute import of mobilevision.heads.b: imports inside the package are relative",
        ),
        (
            "heads/a.py",
            "from datasets.types import b\n",
            "1: absolute import of datasets.types: imports inside the package are relative",
        ),
        (
            "datasets/a.py",
            "import albumentations as A\n",
            f"1: albumentations asks a server at import: take A from {QUIET}",
        ),
        (
            "apps/a.py",
            "from albumentations.core import b\n",
            f"1: albumentations asks a server at import: take A from {QUIET}",
        ),
        (
            "apps/a.py",
            "A = 1\n" * (MAX_FILE_LINES + 1),
            f"{MAX_FILE_LINES}: the file has more than {MAX_FILE_LINES} lines",
        ),
        (
            "apps/a.py",
            "def long():\n    '''One.'''\n" + "    b = 1\n" * (MAX_BODY_LINES + 1),
            f"1: long has a body of {MAX_BODY_LINES + 1} lines",
        ),
    ],
)
def test_find_violations__made_up_tree__caught(
    tmp_path: Path, name: str, source: str, expected: str
) -> None:
    write_module(tmp_path, name, source)
    assert find_violations(tmp_path) == [f"{name}:{expected}"]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("apps/a.py", "from ..heads.b import c\nfrom ..datasets import d\nfrom .e import f\n"),
        ("heads/job/a.py", "from ...backbone import b\nfrom ..shared import c\nfrom . import d\n"),
        ("backbone/a.py", "import torch\nfrom torch.utils import data\nfrom .b import c\n"),
        (str(QUIET), "import albumentations as A\n"),
        ("apps/a.py", "A = 1\n" * MAX_FILE_LINES),
        ("apps/a.py", "def long():\n    '''One\n\n    two.'''\n" + "    b = 1\n" * MAX_BODY_LINES),
        ("apps/a.py", "def empty():\n    '''One.'''\n"),
    ],
)
def test_find_violations__made_up_tree__allowed(tmp_path: Path, name: str, source: str) -> None:
    write_module(tmp_path, name, source)
    assert find_violations(tmp_path) == []


def test_find_violations__datasets_as_a_regular_package__caught(tmp_path: Path) -> None:
    write_module(tmp_path, "datasets/__init__.py", "")
    assert find_violations(tmp_path) == [
        "datasets/__init__.py: hides Hugging Face's datasets in the repository root"
    ]
