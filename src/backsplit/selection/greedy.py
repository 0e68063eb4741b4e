"""A walk from no auxiliary class to all, each step the one that lowers the variance of the target most."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Turn:
    """What one class does for the target's variance; shares of the variance without any auxiliary."""

    name: str
    number: int
    """Its place in the walk, from 1."""
    drop: float
    """What it takes off at its turn; the drops of a walk add up to what all classes take off."""
    drop_alone: float
    """What it takes off as the only one."""


def forward_greedy(names: Sequence[str], variance: Callable[[Sequence[str]], float]) -> list[Turn]:
    """Take up classes until none is left; equal ones in the order given.

    Args:
        names: of the classes to choose from.
        variance: of the target, when these classes are told apart; above 0.
    """
    whole = current = variance(())
    alone: dict[str, float] = {}
    walk: list[Turn] = []
    while len(walk) < len(names):
        taken = [turn.name for turn in walk]
        found = {name: variance((*taken, name)) for name in names if name not in taken}
        alone = alone or {name: 1 - value / whole for name, value in found.items()}
        best = min(found, key=lambda name: found[name])
        walk.append(Turn(best, len(walk) + 1, (current - found[best]) / whole, alone[best]))
        current = found[best]
    return walk
