"""nnInteractive with simulated clicks: a promptable network is shown a reference mask, click by click."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Integer

from backsplit.arrays import Mask, Spacing
from backsplit.cases import Case
from backsplit.errors import SourceError
from backsplit.sources.clicks import Clicking, Parts, click_generator, connected_parts
from backsplit.sources.nninteractive_model import InteractiveModel, open_model
from backsplit.sources.nninteractive_session import Running, Session, click_part, open_session, read_images
from backsplit.sources.protocol import Masks
from backsplit.sources.reference import Reference
from backsplit.sources.structures import choose_structures
from backsplit.volume import Volume


class _Clicked(NamedTuple):
    """A structure after all its parts were clicked."""

    masks: dict[int, Mask]
    """Union of its parts, by the number of clicks that each got at most."""
    parts: list[dict[str, Any]]
    """For the record: each part's number, voxels and clicks, a click as x, y, z and 1 or -1."""


@dataclass(frozen=True)
class NnInteractiveSource:
    """Masks that a promptable network gives for clicks drawn from reference masks; keeps to `MaskSource`."""

    model: InteractiveModel
    reference: Reference
    structures: tuple[str, ...]
    """Some of the reference's; where their masks overlap, the one named first wins."""
    clicking: Clicking
    running: Running

    @property
    def how(self) -> Mapping[str, Any]:
        """Tool, weights, reference and clicks; the device is left out."""
        return {
            "tool": "nnInteractive",
            "version": self.model.version,
            "weights": self.model.sha256,
            "licence": self.model.licence,
            "reference": self.reference.name,
            **asdict(self.clicking),
            "channel": self.running.channel,
            "autozoom": self.running.autozoom,
        }

    def inputs(self, case: Case) -> tuple[Path, ...]:
        """Images that the network sees, and the reference."""
        return (*self._images(case), self.reference.path(case))

    def segment(self, case: Case, scratch: Path) -> Masks:  # noqa: ARG002  the tool writes no file
        """Click each part of each structure that the case's reference is annotated for.

        Returns:
            Masks after all clicks, and after those to keep. A structure without a part that is large enough is empty.

        Raises:
            SourceError: images that the network cannot take.
            GeometryError: images or reference on different grids.
            CohortError: the case has no reference.
        """
        reference = self.reference.read(case)
        self._session.set_image(read_images(case, self._images(case), num_channels=self.model.num_channels))
        annotated = tuple(name for name in self.structures if name in self.reference.annotated(case))
        clicked: dict[str, _Clicked] = {}
        skipped = {}
        for name in annotated:
            is_structure = reference.voxels == self.reference.value(name)
            parts = connected_parts(is_structure, min_voxels=self.clicking.min_part_voxels)
            clicked[name] = self._click(parts, case=case.name, structure=name, spacing_mm=reference.grid.spacing_mm)
            skipped[name] = parts.num_skipped
        painted = {
            number: self._paint({name: each.masks[number] for name, each in clicked.items()}, reference.voxels.shape)
            for number in self._numbers
        }
        volumes = {number: Volume(voxels, reference.grid) for number, (voxels, _) in painted.items()}
        return Masks(
            volume=volumes[self.clicking.num_clicks],
            annotated=annotated,
            details={
                "clicks": {name: each.parts for name, each in clicked.items()},
                "skipped_parts": skipped,
                "overlaps": painted[self.clicking.num_clicks][1],
            },
            intermediate={f"{number}-clicks": volumes[number] for number in self.clicking.keep},
        )

    @cached_property
    def _session(self) -> Session:
        return open_session(self.model, self.running)

    @property
    def _numbers(self) -> tuple[int, ...]:
        """Numbers of clicks whose masks are wanted."""
        return tuple(sorted({*self.clicking.keep, self.clicking.num_clicks}))

    def _images(self, case: Case) -> tuple[Path, ...]:
        channel = self.running.channel
        if channel is None:
            return case.images
        if not 0 <= channel < len(case.images):
            raise SourceError(f"{case.name}: no image {channel}; it has {len(case.images)}, counted from 0")
        return (case.images[channel],)

    def _click(self, parts: Parts, *, case: str, structure: str, spacing_mm: Spacing) -> _Clicked:
        union = {number: np.zeros(parts.labels.shape, bool) for number in self._numbers}
        listed = []
        for number in range(1, parts.num_parts + 1):
            part = parts.labels == number
            generator = click_generator(self.clicking.seed, case=case, structure=structure, part=number)
            clicks, masks = [], {}
            steps = click_part(self._session, part, self.clicking, spacing_mm=spacing_mm, generator=generator)
            for count, (click, mask) in enumerate(steps, start=1):
                clicks.append([*click.voxel, 1 if click.is_positive else -1])
                masks |= {wanted: mask for wanted in self._numbers if wanted >= count}  # a part may run out of clicks
            for wanted, mask in masks.items():
                union[wanted] |= mask
            listed.append({"part": number, "voxels": int(np.count_nonzero(part)), "clicks": clicks})
        return _Clicked(union, listed)

    def _paint(
        self, masks: Mapping[str, Mask], shape: tuple[int, ...]
    ) -> tuple[Integer[np.ndarray, "x y z"], dict[str, int]]:
        """One label map, and the voxels that a structure lost to one named before it, by `winner over loser`."""
        labels = np.zeros(shape, np.min_scalar_type(len(self.structures)))
        overlaps = {}
        for name, mask in masks.items():
            lost = np.bincount(labels[mask], minlength=len(self.structures) + 1)[1:]
            overlaps |= {f"{self.structures[index]} over {name}": int(lost[index]) for index in np.flatnonzero(lost)}
            labels[mask & (labels == 0)] = self.structures.index(name) + 1
        return labels, overlaps


def open_nninteractive(
    *,
    model: Path | None,
    reference: Reference,
    structures: Sequence[str] | None,
    clicking: Clicking,
    running: Running,
    force: bool,
) -> NnInteractiveSource:
    """The source, its weights found and checked.

    Args:
        model: folder of the weights; None for the only model where nnInteractive keeps its own.
        reference: masks that clicks are drawn from.
        structures: some of the reference's classes, the one that wins an overlap first; None for all but lesions.
        clicking: how a user is simulated.
        running: how the tool runs.
        force: allow lesions among the structures.

    Raises:
        SourceError: the package or the weights are missing or cannot be used, or a structure is not to be had.
    """
    chosen = choose_structures(reference.names, structures, force=force)
    opened = open_model(model, autozoom=running.autozoom, trust=running.trust)
    return NnInteractiveSource(opened, reference, chosen, clicking, running)
