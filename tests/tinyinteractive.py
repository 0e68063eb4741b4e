"""Tiny models of nnInteractive, trained in seconds or minutes by clicking, as the tool will be clicked.

Training shows the network what the tool shows it: the image, its own last mask, and balls of radius 4 around positive
and negative clicks, older ones fainter, in a patch around the last click. Arrays are `[z, y, x]`.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from nnInteractive.interaction.point import PointInteraction_stub
from torch import Tensor, nn
from torch.nn import functional

import tinymodels
from backsplit.sources.clicks import centre_click, random_clicks

NUM_INTERACTIONS = 7
PREVIOUS, POSITIVE, NEGATIVE = 0, 3, 4
"""Among the interaction channels, by the tool's default."""
RADIUS, DECAY = 4, 0.98
MOST_CLICKS = 10
NUM_OBJECTS = 8
"""Clicked in turn, so that neighbouring steps differ."""


class Example(NamedTuple):
    """An image and one object in it."""

    image: np.ndarray
    """Raw intensities."""
    part: np.ndarray


def write_interactive_model(
    folder: Path,
    weights: dict[str, Tensor] | None = None,
    *,
    patch_size: Sequence[int] = (64, 64, 64),
    features: Sequence[int] = tinymodels.FEATURES,
    trainer_name: str = "nnInteractiveTrainer_stub",
    channel_names: Sequence[str] = ("CT",),
) -> None:
    """A model folder as nnInteractive's download makes it; random weights unless given."""
    tinymodels.write_model(
        folder,
        {"background": 0, "object": 1},
        patch_size=patch_size,
        num_inputs=len(channel_names) + NUM_INTERACTIONS,
        features=features,
        trainer_name=trainer_name,
        channel_names=channel_names,
        weights=weights,
    )
    info = {"point_radius": RADIUS, "interaction_decay": DECAY, "pad_mode_image": "constant"}
    (folder / "inference_info.json").write_text(json.dumps(info))
    (folder / "LICENSE").write_text("\nCC0-1.0\nMade by a test.\n")


def train_by_clicks(
    draw: Callable[[np.random.Generator], Example],
    *,
    patch_size: Sequence[int],
    features: Sequence[int],
    num_steps: int,
    learning_rate: float = 3e-3,
    seed: int = 0,
    is_bfloat16: bool = False,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> dict[str, Tensor]:
    """Weights after `num_steps` clicks, one step of the optimiser each.

    Args:
        draw: an image and an object in it; called for every new object.
        patch_size: and `features`, of the network.
        num_steps: clicks in all; each object gets 1 to 10.
        learning_rate: at the start; falls to 0 along a cosine.
        seed: of weights, objects and clicks.
        is_bfloat16: multiply in bfloat16.
        report: told the loss at every step.
    """
    torch.manual_seed(seed)
    network = tinymodels.build(tinymodels._architecture(features), 1 + NUM_INTERACTIONS, 2)
    optimiser = torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, num_steps)
    episodes = [_episodes(draw, tuple(patch_size), np.random.default_rng((seed, each))) for each in range(NUM_OBJECTS)]
    for step in range(num_steps):
        patch, target, answer = next(episodes[step % NUM_OBJECTS])
        with torch.autocast("cpu", torch.bfloat16, enabled=is_bfloat16):
            logits = network(patch)
        loss = _loss(logits.float(), target)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1)
        optimiser.step()
        schedule.step()
        answer(logits.detach())
        report(step, float(loss.detach()))
    return network.state_dict()


def _episodes(
    draw: Callable[[np.random.Generator], Example], patch_size: tuple[int, ...], generator: np.random.Generator
) -> Iterator[tuple[Tensor, Tensor, Callable[[Tensor], None]]]:
    """Network input and target around each click of each object, and where to put the network's answer."""
    margins = [side for size in reversed(patch_size) for side in (size // 2, size - size // 2)]
    while True:
        image, part = draw(generator)
        normalised = torch.from_numpy(((image - image.mean()) / image.std()).astype(np.float32))
        maps = torch.zeros(NUM_INTERACTIONS, *image.shape)
        padded_image, padded_part = (
            functional.pad(volume, margins) for volume in (normalised, torch.from_numpy(part.astype(np.int64)))
        )
        num_clicks, is_random = int(generator.integers(1, MOST_CLICKS + 1)), generator.random() < 0.5
        drawn = random_clicks(part, num_clicks, generator)
        for index in range(num_clicks):
            shown = maps[PREVIOUS].numpy() > 0.5
            click = (
                drawn[index] if is_random and index < len(drawn) else centre_click(shown, part, spacing_mm=(1.0,) * 3)
            )
            if click is None:
                break
            maps[PREVIOUS + 1 :] *= DECAY
            PointInteraction_stub(RADIUS, use_distance_transform=True).place_point(
                click.voxel, maps, channel_idx=POSITIVE if click.is_positive else NEGATIVE
            )
            box = tuple(slice(at, at + size) for at, size in zip(click.voxel, patch_size, strict=True))
            patch = torch.cat((padded_image[None], functional.pad(maps, margins)))[:, *box]
            yield patch[None], padded_part[None, *box], _paster(maps[PREVIOUS], click.voxel, patch_size)


def _paster(mask: Tensor, centre: Sequence[int], patch_size: Sequence[int]) -> Callable[[Tensor], None]:
    """Puts a prediction into a mask, where the patch lies inside it."""
    starts = [at - size // 2 for at, size in zip(centre, patch_size, strict=True)]
    inside = tuple(
        slice(max(start, 0), min(start + size, length))
        for start, size, length in zip(starts, patch_size, mask.shape, strict=True)
    )
    local = tuple(slice(each.start - start, each.stop - start) for each, start in zip(inside, starts, strict=True))

    def paste(logits: Tensor) -> None:
        mask[inside] = logits[0].argmax(0).float()[local]

    return paste


def _loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy less soft Dice, of one patch."""
    probability = logits.softmax(1)[:, 1]
    dice = 2 * (probability * target).sum() / (probability.sum() + target.sum() + 1e-5)
    return functional.cross_entropy(logits, target) - dice
