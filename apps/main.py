"""The ``mobilevision`` command; the modules in ``commands`` are light, so that help is fast."""

import difflib
import sys
import textwrap
from collections.abc import Iterable
from contextlib import nullcontext
from typing import NoReturn

from jsonargparse import ArgumentParser

from ..heads.trust import trusting
from .command import EXIT_USAGE, HelpFormatter, friendly_errors
from .commands import COMMANDS
from .public import accepting

TRAINING = ("fit", "validate", "test", "predict")
"""Passed on unchanged to the command line of Lightning."""

_PROGRAM = "mobilevision"
_WIDTH = 79
_TITLE = "Vision models that fit a phone or a CPU: trained, measured and shipped."
_PACKAGES = ("mobilevision", "torch", "torchvision", "lightning")
_INDENT = "  "
_SHOWN_FIRST = ("detect", "data check", "weights download", "import", "cost")
"""Commands whose examples are in the main help; the help of a group shows all of its own."""


def main(args: list[str] | None = None) -> int:
    """Run a command line, by default that of the process, and return its exit status.

    The status is 0, or 1 if a check found faults.

    Raises:
        SystemExit: After help, the version and errors: 0, 2 for wrong options or data, 130 after
            Ctrl-C.
    """
    words = sys.argv[1:] if args is None else args
    with friendly_errors():
        if words and words[0] in TRAINING:
            from .cli import lightning

            lightning(words)
            return 0
        path, rest = _split(words)
        if path in COMMANDS:
            return _run(path, rest)
        return _group(path, rest)


def lightning() -> None:
    """Console script ``lightning``: the commands of ``TRAINING`` alone; see ``cli.lightning``.

    Raises:
        SystemExit: As from ``main``; 2 where Lightning is not installed.
    """
    with friendly_errors():
        from .cli import lightning as run

        run()


def _split(words: list[str]) -> tuple[str, list[str]]:
    """Split off the longest prefix of the words that starts a command."""
    path = ""
    for index, word in enumerate(words):
        longer = f"{path} {word}".strip()
        if not _below(longer):
            return path, words[index:]
        path = longer
    return path, []


def _below(path: str) -> list[str]:
    """Return the commands that are ``path`` or start with its words."""
    return [name for name in COMMANDS if f"{name} ".startswith(f"{path} ".lstrip())]


def _run(path: str, words: list[str]) -> int:
    command = COMMANDS[path]
    parser = ArgumentParser(
        prog=f"{_PROGRAM} {path}",
        description=textwrap.fill(command.summary, _WIDTH),
        epilog=_examples(command.examples),
        formatter_class=HelpFormatter,
    )
    command.add_arguments(parser)
    arguments = parser.parse_args(words)
    trust = arguments.get("trust")
    license = arguments.get("accept_license")
    accept = accepting(license) if license else nullcontext()
    with trusting(trust) if trust else nullcontext(), accept:
        status = command.run(arguments)
    sys.stdout.flush()  # a full disk shows here, not when Python exits
    return status


def _group(path: str, words: list[str]) -> NoReturn:
    """Handle a command line without a complete command: help, the version or an error."""
    if words and words[0] in {"-h", "--help"}:
        print(_help(path))
        raise SystemExit(0)
    if words and words[0] == "--version" and not path:
        print(_versions())
        raise SystemExit(0)
    if not words:
        print(_help(path), file=sys.stderr)
        raise SystemExit(EXIT_USAGE)
    position = len(path.split())
    known = {name.split()[position] for name in _below(path)}
    if not path:
        known |= set(TRAINING)
    near = difflib.get_close_matches(words[0], sorted(known), n=1)
    prefix = f"{_PROGRAM} {path}".rstrip()
    hint = f"did you mean '{near[0]}'? " if near else ""
    print(
        f"error: '{prefix}' has no command '{words[0]}'; {hint}see '{prefix} --help'",
        file=sys.stderr,
    )
    raise SystemExit(EXIT_USAGE)


def _help(path: str) -> str:
    prefix = f"{_PROGRAM} {path}".rstrip()
    names = _below(path)
    commands = {name: COMMANDS[name] for name in names}
    rows = [(name, command.summary) for name, command in commands.items()]
    parts = [f"usage: {prefix} COMMAND [OPTIONS]"]
    options = [("-h, --help", "Show this message, or that of a command.")]
    shown = names if path else _SHOWN_FIRST
    examples = [commands[name].examples[0] for name in shown]
    if not path:
        parts.append(_TITLE)
        rows.append(
            (", ".join(TRAINING), "Train and measure: the same as the command 'lightning'.")
        )
        options.append(("--version", "Show the versions of this and the main libraries."))
        examples.append("mobilevision fit -c configs/quickstart.yaml")
    parts.append(_table("commands:", rows))
    parts.append(_table("options:", options))
    parts.append(_examples(examples))
    return "\n\n".join(parts)


def _examples(lines: Iterable[str]) -> str:
    """Format command lines; long ones are wrapped with backslashes, as for a shell."""
    shown = ["examples:"]
    for line in lines:
        wrapped = textwrap.wrap(line, _WIDTH - 2 * len(_INDENT) - 2, break_on_hyphens=False,
                                break_long_words=False, subsequent_indent=2 * _INDENT)  # fmt: skip
        shown.append(" \\\n".join(_INDENT + part for part in wrapped))
    return "\n".join(shown)


def _table(title: str, rows: Iterable[tuple[str, str]]) -> str:
    """Format names and sentences in two columns, wrapped to the width of a terminal."""
    left = 22
    lines = [title]
    for name, sentence in rows:
        wrapped = textwrap.wrap(sentence, _WIDTH - left - len(_INDENT))
        if len(name) > left - 2:
            lines.append(_INDENT + name)
        else:
            lines.append(_INDENT + name.ljust(left) + wrapped.pop(0))
        lines += [" " * (left + len(_INDENT)) + line for line in wrapped]
    return "\n".join(lines)


def _versions() -> str:
    """Return the versions of the installed packages, without importing them, as that is slow."""
    from importlib.metadata import PackageNotFoundError, version

    lines: list[str] = []
    for package in _PACKAGES:
        try:
            lines.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            lines.append(f"{package} is not installed")
    return "\n".join(lines)
