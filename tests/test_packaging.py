"""What gets installed: every module, under one name, beside other people's packages."""

import ast
import hashlib
import os
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

OPAQUE_FILES = {
    "docs/images/quickstart.jpg": (
        "9d2bc4c48e1a4e869480381a83547815a55abaedee0ac47ed1ebab41eb009711",
        "drawn by the quickstart: generated scenes, no photo",
    ),
}
"""The only files of the repository that are no readable text: their sha256 and origin."""
LONGEST_TEXT = 100_000
"""Bytes; images and weights that are written as text are longer."""
UNSAFE_MODULES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


@pytest.fixture(scope="module")
def declared(repository: Path) -> dict[str, Any]:
    return tomllib.loads((repository / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel installed into a folder that has a package called datasets already."""
    target = tmp_path_factory.mktemp("installed")
    other = target / "datasets" / "__init__.py"
    other.parent.mkdir()
    other.write_text("def load_dataset() -> str:\n    return 'other'\n")
    options = ("--no-deps", "--no-index", "--quiet", "--target", str(target))
    run("-m", "pip", "install", *options, str(wheel), cwd=target)
    return target


def run(*words: str, cwd: Path, pythonpath: Path | None = None) -> str:
    environment = dict(os.environ)
    environment.pop("PYTHONPATH", None)
    if pythonpath:
        environment["PYTHONPATH"] = str(pythonpath)
    command = [sys.executable, *words]
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_packages__declared__are_the_folders_with_python_files(
    package_folders: list[str], declared: dict[str, Any]
) -> None:
    names = [f"mobilevision.{folder.replace('/', '.')}" for folder in package_folders]
    assert declared["tool"]["setuptools"]["packages"] == names
    assert declared["tool"]["setuptools"]["package-dir"] == {"mobilevision": "."}


def test_inference_requirements__each__is_a_dependency_with_the_same_bounds(
    repository: Path, declared: dict[str, Any]
) -> None:
    lines = (repository / "requirements-inference.txt").read_text().splitlines()
    needed = [bounds(line) for line in lines if not line.startswith("#")]
    plain = [bounds(line) for line in declared["project"]["dependencies"]]
    assert needed
    assert [each for each in needed if each not in plain] == []


def bounds(line: str) -> tuple[str, SpecifierSet]:
    requirement = Requirement(line)
    return requirement.name, requirement.specifier


def test_wheel__built_from_the_tree__holds_every_module_and_recipe(
    repository: Path, package_folders: list[str], wheel: Path
) -> None:
    expected = {
        file.relative_to(repository).as_posix()
        for folder in package_folders
        for pattern in ("*.py", "*.yaml", "README.md", "py.typed")
        for file in (repository / folder).glob(pattern)
    }
    names = zipfile.ZipFile(wheel).namelist()
    held = {name.removeprefix("mobilevision/") for name in names if "dist-info/" not in name}
    assert held == expected


def test_wheel__each_folder_at_the_top__says_that_it_is_typed(
    package_folders: list[str], wheel: Path
) -> None:
    # PEP 561: a namespace, which mobilevision is, has the mark in each of its parts.
    parts = {folder.split("/")[0] for folder in package_folders}
    assert {f"mobilevision/{part}/py.typed" for part in parts} <= set(
        zipfile.ZipFile(wheel).namelist()
    )


def test_wheel__top_level__one_name(wheel: Path, declared: dict[str, Any]) -> None:
    version = declared["project"]["version"]
    top_level = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert top_level == {"mobilevision", f"mobilevision-{version}.dist-info"}


@pytest.mark.parametrize("from_repository", [False, True], ids=["elsewhere", "repository root"])
def test_wheel__beside_another_datasets__both_importable(
    installed: Path, tmp_path: Path, repository: Path, from_repository: bool
) -> None:
    program = (
        "import datasets, mobilevision.apps.main, mobilevision.datasets.types as types;"
        "print(datasets.load_dataset(), types.__file__, mobilevision.apps.main.__file__, sep='\\n')"
    )
    folder = repository if from_repository else tmp_path
    other, ours, command = run("-c", program, cwd=folder, pythonpath=installed).splitlines()
    assert other == "other"
    assert Path(ours) == installed / "mobilevision" / "datasets" / "types.py"
    assert Path(command) == installed / "mobilevision" / "apps" / "main.py"


@pytest.mark.parametrize("script", ["lightning", "mobilevision"])
def test_console_script__declared__is_a_function(declared: dict[str, Any], script: str) -> None:
    module, _, function = declared["project"]["scripts"][script].partition(":")
    assert callable(getattr(import_module(module), function))


def opaque_files(root: Path) -> dict[str, str]:
    """The sha256 of every tracked file that may hold an image or weights."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, check=True)
    opaque = {}
    for name in listed.stdout.decode().split("\0"):
        path = root / name
        if not path.is_file():  # the end of the list, or deleted and not yet committed
            continue
        content = path.read_bytes()
        try:
            text = b"\0" not in content and bool(content.decode())
        except UnicodeDecodeError:
            text = False
        if content and (not text or len(content) > LONGEST_TEXT):
            opaque[name] = hashlib.sha256(content).hexdigest()
    return opaque


def test_repository__files_that_are_no_text__are_known_and_of_nobody(repository: Path) -> None:
    if not (repository / ".git").exists():
        pytest.skip("not a clone of the repository")
    # No weights, no images of people: whoever adds a file says here where it comes from.
    assert opaque_files(repository) == {name: digest for name, (digest, _) in OPAQUE_FILES.items()}


def test_opaque_files__made_up_repository__images_and_weights_found(tmp_path: Path) -> None:
    (tmp_path / "photo.txt").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "weights").write_bytes(b"abc\0def")
    (tmp_path / "inline.md").write_text("A" * (LONGEST_TEXT + 1))
    (tmp_path / "über.md").write_text("Größe", encoding="utf-8")
    (tmp_path / "empty.py").touch()
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "."], cwd=tmp_path, check=True)
    (tmp_path / "untracked.png").write_bytes(b"\x89")
    assert set(opaque_files(tmp_path)) == {"photo.txt", "weights", "inline.md"}


def unsafe_reading(source: str) -> Iterator[str]:
    """Calls and imports that could run code hidden in a file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = {alias.name.split(".")[0] for alias in node.names}
            yield from sorted(names & UNSAFE_MODULES)
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").split(".")[0] in UNSAFE_MODULES and not node.level:
                yield str(node.module)
            elif node.module == "torch" and "load" in {alias.name for alias in node.names}:
                yield "torch.load under another name"
        elif isinstance(node, ast.Call):
            options = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if ast.unparse(node.func) == "torch.load" and options.get("weights_only") != "True":
                yield "torch.load without weights_only=True"
            if options.get("allow_pickle", "False") != "False":
                yield "allow_pickle"


def test_reading__package__cannot_run_code_from_a_file(
    repository: Path, package_folders: list[str]
) -> None:
    found = {
        f"{file.relative_to(repository)}: {problem}"
        for folder in package_folders
        for file in (repository / folder).glob("*.py")
        for problem in unsafe_reading(file.read_text())
    }
    assert found == set()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("torch.load(path)", ["torch.load without weights_only=True"]),
        ("torch.load(path, weights_only=False)", ["torch.load without weights_only=True"]),
        ("torch.load(path, weights_only=flag)", ["torch.load without weights_only=True"]),
        ("torch.load(path, weights_only=True)", []),
        ("from torch import load", ["torch.load under another name"]),
        ("import pickle", ["pickle"]),
        ("def a():\n    from joblib import load", ["joblib"]),
        ("from .pickle import a", []),
        ("np.load(path, allow_pickle=True)", ["allow_pickle"]),
        ("np.load(path, allow_pickle=False)", []),
    ],
)
def test_unsafe_reading__made_up_source__caught(source: str, expected: list[str]) -> None:
    assert list(unsafe_reading(source)) == expected


def test_import_extra__each_remedy__is_an_extra_or_a_dependency_of_this_package(
    repository: Path, package_folders: list[str], declared: dict[str, Any]
) -> None:
    # Anything else would have people install a stranger's package of that name.
    project = declared["project"]
    extras = {f"'mobilevision[{name}]'" for name in project["optional-dependencies"]}
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    known = extras | {bounds(line)[0] for lines in groups for line in lines}
    remedies = {
        node.args[1].value
        for folder in package_folders
        for file in (repository / folder).glob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "import_extra"
        if isinstance(node.args[1], ast.Constant)
    }
    assert "'mobilevision[tune]'" in remedies
    assert {each for each in remedies if str(each).partition("==")[0] not in known} == set()
