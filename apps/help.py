"""How the help of a command looks."""

from argparse import SUPPRESS, Action, RawDescriptionHelpFormatter

from jsonargparse import DefaultHelpFormatter


class HelpFormatter(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Sentences for people: the line breaks of the examples kept, defaults, and no Python types."""

    def _get_help_string(self, action: Action) -> str:
        sentence = action.help or ""
        default = action.default
        if default is None or default is False or default == SUPPRESS:
            return sentence
        shown = " ".join(map(str, default)) if isinstance(default, list) else str(default)
        return f"{sentence} Default: {shown.replace('%', '%%')}."
