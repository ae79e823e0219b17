"""Recipes as YAML: each file is complete and its header states what it measured."""

from pathlib import Path

from ..datasets.errors import DataError

_FOLDER = Path(__file__).parent


def find_config(name: str | Path) -> Path:
    """Return a configuration: the user's file, or else the recipe of that name in this package.

    ``quickstart``, ``quickstart.yaml`` and ``configs/quickstart.yaml`` name one recipe, so that
    documented commands work outside a clone of the repository, too.

    Raises:
        DataError: There is neither; the message lists the recipes.
    """
    path = Path(name)
    if path.is_file():
        return path
    recipe = _FOLDER / f"{path.name.removesuffix('.yaml')}.yaml"
    if path.parent in {Path(), Path("configs")} and recipe.is_file():
        return recipe
    recipes = ", ".join(sorted(file.stem for file in _FOLDER.glob("*.yaml")))
    raise DataError(f"{name}: no such configuration; the recipes of this package are {recipes}")
