"""Placeholder until the schedules land."""


class Schedule:
    """Constant."""

    @classmethod
    def preset(cls, name: str) -> "Schedule":
        """Constant."""
        del name
        return cls()

    def weights(self, base: object, progress: float) -> object:
        """Constant."""
        del progress
        return base

    def num_active(self, num_auxiliaries: int, progress: float) -> int:
        """All."""
        del progress
        return num_auxiliaries
