"""From a recipe's file to a recipe that can be run."""

from collections.abc import Sequence
from pathlib import Path

from backsplit.experiments.recipe_checks import check
from backsplit.experiments.recipe_files import Draft, override, read_draft, validated
from backsplit.experiments.recipes import Recipe


def read_recipe(path: Path, settings: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        path: YAML.
        settings: put over what is written, such as `budget.epochs=50`.

    Raises:
        RecipeError: lists every fault of file, values and what does not fit together, with its place.
    """
    draft = read_draft(path)
    override(draft, settings)
    return checked(draft)


def checked(draft: Draft) -> Recipe:
    """The recipe that a draft holds.

    Raises:
        RecipeError: as `read_recipe`.
    """
    recipe = validated(draft)
    check(recipe, draft)
    draft.require()
    return recipe
