"""What the documents say exists: linked files, named files, command lines."""

import re
import shlex
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser

from mobilevision.apps.main import COMMANDS, TRAINING

REPOSITORY = Path(__file__).resolve().parents[1]
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"!?\[[^\]]*\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)")
NAMED_FILE = re.compile(r"(?:apps|backbone|benchmarks|configs|datasets|docs|heads|tests)/[\w/.-]+")
COMMAND = re.compile(r"^(?:\$ )?(?:[A-Z_]+=\S+ )*(?:\S*/)?((?:lightning|mobilevision) .+)$")
MENTIONS = {
    " ".join(["mobilevision", *name.split()[:count]])
    for name in COMMANDS
    for count in range(len(name.split()) + 1)
}
"""Commands and groups of them, as running text names them without saying how they are called."""
LIGHTNING_OPTIONS = {
    "config",
    "data",
    "model",
    "trainer",
    "seed_everything",
    "ckpt_path",
    "trust",
    "print_config",
    "help",
}


def markdown_files(root: Path) -> list[Path]:
    folders = [root, *(root / name for name in ("docs", "heads", "configs", "benchmarks"))]
    found = {file for folder in folders[1:] for file in folder.rglob("*.md")}
    return sorted(found | set(root.glob("*.md")))


def broken_links(document: Path) -> list[str]:
    """Relative links of a Markdown file that lead nowhere."""
    text = FENCE.sub("", document.read_text())
    targets = [link.partition("#")[0] for link in LINK.findall(INLINE.sub("", text))]
    return [
        target
        for target in targets
        if target and "://" not in target and not target.startswith("mailto:")
        if not (document.parent / target).exists()
    ]


def command_lines(document: Path) -> list[str]:
    """The lightning and mobilevision command lines in code blocks and in the running text."""
    text = document.read_text()
    blocks = [line for block in FENCE.findall(text) for line in joined_lines(block)]
    inline = [code for code in INLINE.findall(FENCE.sub("", text)) if code not in MENTIONS]
    return [match[1] for code in (*blocks, *inline) if (match := COMMAND.match(code.strip()))]


def joined_lines(block: str) -> list[str]:
    return re.sub(r"\s*\\\n\s*", " ", block).splitlines()


def command_problems(line: str, root: Path) -> Iterator[str]:
    """What keeps a documented command line from working, as far as it can be told unrun."""
    words = shlex.split(line, comments=True)
    ends = [index for index, word in enumerate(words) if word in {"|", "&&", ";", ">"}]
    words = words[: ends[0]] if ends else words
    program, first, *rest = words
    if first in {"--help", "-h", "--version"}:
        return
    if first.split("|")[0] in TRAINING:
        yield from (f"no subcommand {name}" for name in first.split("|") if name not in TRAINING)
        yield from training_problems(rest, root)
    elif program == "lightning":
        yield f"no subcommand {first}"
    else:
        yield from tool_problems(words[1:])


def training_problems(words: list[str], root: Path) -> Iterator[str]:
    for word, following in zip_longest(words, words[1:], fillvalue=""):
        name, _, value = word.partition("=")
        if name in {"-c", "--config"}:
            config = value or following
            recipe = root / "configs" / f"{config}.yaml"  # a bare name is one of the package
            if not (root / config).is_file() and not recipe.is_file():
                yield f"no file {config}"
        elif name.startswith("--") and name[2:].split(".", maxsplit=1)[0] not in LIGHTNING_OPTIONS:
            yield f"no option {name}"


def tool_problems(words: list[str]) -> Iterator[str]:
    """Check the words after ``mobilevision`` with the parser of their command."""
    for name in COMMANDS:
        path = name.split()
        if words[: len(path)] == path:
            parser = ArgumentParser(exit_on_error=False)
            COMMANDS[name].add_arguments(parser)
            try:
                parser.parse_args(words[len(path) :])
            except Exception as error:
                yield f"{name}: {error}"
            return
    yield f"no command {' '.join(words)}"


def named_files(document: Path) -> set[str]:
    """Files of the repository that a document names as code."""
    text = FENCE.sub("", document.read_text())
    return {code for code in INLINE.findall(text) if NAMED_FILE.fullmatch(code)}


DOCUMENTS = [path.relative_to(REPOSITORY).as_posix() for path in markdown_files(REPOSITORY)]
COMMAND_LINES = [(name, line) for name in DOCUMENTS for line in command_lines(REPOSITORY / name)]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links__relative__lead_to_files(name: str) -> None:
    assert broken_links(REPOSITORY / name) == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_named_files__as_code__exist(name: str) -> None:
    missing = {file for file in named_files(REPOSITORY / name) if not (REPOSITORY / file).exists()}
    assert missing == set()


@pytest.mark.parametrize(("name", "line"), COMMAND_LINES)
def test_command_line__documented__parses(name: str, line: str) -> None:
    assert list(command_problems(line, REPOSITORY)) == [], name


@pytest.mark.parametrize("command", COMMANDS)
def test_command_line__example_in_the_help__parses(command: str) -> None:
    problems = [list(command_problems(line, REPOSITORY)) for line in COMMANDS[command].examples]
    assert not any(problems), problems


def test_broken_links__made_up_document__found(tmp_path: Path) -> None:
    document = tmp_path / "a.md"
    document.write_text(
        "[here](a.md#top) [gone](docs/gone.md) ![image](b.png 'x') [web](https://example.org/a)\n"
        '[top](#top) ![titled](c.png "title") `[code](d.md)`\n```\n[code](e.md)\n```\n'
    )
    assert broken_links(document) == ["docs/gone.md", "c.png"]


def test_command_lines__made_up_document__all_found(tmp_path: Path) -> None:
    document = tmp_path / "a.md"
    document.write_text(
        "Run `mobilevision data check ROOT`, not `lightning`, `mobilevision data check` or "
        "`mobilevision.apps`:\n"
        "```bash\n$ lightning fit \\\n    -c a.yaml  # trains\n"
        "A=1 .venv/bin/lightning test -c a.yaml\nls\n```\n"
    )
    assert command_lines(document) == [
        "lightning fit -c a.yaml  # trains",
        "lightning test -c a.yaml",
        "mobilevision data check ROOT",
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("lightning fit -c configs/__init__.py --data.root=a  # trains", []),
        ("lightning fit|test --config=configs/__init__.py | tee log", []),
        ("lightning fit -c configs/gone.yaml", ["no file configs/gone.yaml"]),
        ("lightning fit -c configs/__init__.py --date.root=a", ["no option --date.root"]),
        ("lightning fit|tset", ["no subcommand tset"]),
        ("lightning train", ["no subcommand train"]),
        ("mobilevision test -c configs/gone.yaml", ["no file configs/gone.yaml"]),
        ("mobilevision --version", []),
        ("mobilevision data", ["no command data"]),
        ("mobilevision data check ROOT --quick && ls", []),
        ("mobilevision data czech ROOT", ["no command data czech ROOT"]),
    ],
)
def test_command_problems__made_up_line__told(line: str, expected: list[str]) -> None:
    assert list(command_problems(line, REPOSITORY)) == expected


def test_command_problems__unknown_option_of_a_command__told() -> None:
    (problem,) = command_problems("mobilevision data check ROOT --quik", REPOSITORY)
    assert problem.startswith("data check: ")
    assert "--quik" in problem
