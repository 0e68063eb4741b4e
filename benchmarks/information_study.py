"""What `backsplit fisher` says about arms of the phantom, and how much of it depends on the ridge and on sampling.

Run:  OMP_NUM_THREADS=1 python benchmarks/information_study.py STUDIES docs/information.md docs/likelihoods.png

STUDIES is what `benchmarks/selection_study.py` trained. Cases that were looked at are not looked at again.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from phantom_study import markdown
from selection_study import FINE, ITERATIONS, SEEDS, fine_model

from backsplit import cases
from backsplit.cli.demo import STEP_SIZE
from backsplit.cli.main import main
from backsplit.experiments.information import by_coarsening, look_at_cohort, turns
from backsplit.experiments.looking import Looked
from backsplit.experiments.paths import Workspace
from backsplit.files import replacing, write_text
from backsplit.nnunet.features import TrainedNetwork

RIDGES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
SHARES = ("lost_image", "lost_border", "lost_last_layer")


def looked_at(root: Path, seed: int) -> tuple[TrainedNetwork, Looked]:
    """The arm of a seed, and what labels tell about it over its training cohort."""
    workspace = Workspace(root / f"seed_{seed}")
    trained, cohort = fine_model(workspace), cases.read(workspace.root / "train" / "composed")
    return trained, look_at_cohort(trained, cohort, workspace.information_of(FINE), step_size=STEP_SIZE)


def labels_table(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Means over seeds, and the range of the ratio."""
    ratios = np.array([table["ratio"] for table in tables])
    mean = {name: np.mean([table[name] for table in tables], axis=0) for name in SHARES}
    return pd.DataFrame(
        {
            "labels": tables[0]["labels"],
            **{name.replace("_", " "): [f"{value:.3f}" for value in values] for name, values in mean.items()},
            "variance, ratio to fine": [f"{value:.3f}" for value in ratios.mean(axis=0)],
            "range over seeds": [
                f"{low:.3f} to {high:.3f}" for low, high in zip(ratios.min(axis=0), ratios.max(axis=0), strict=True)
            ],
        }
    )


def ridge_table(found: list[tuple[TrainedNetwork, Looked]]) -> pd.DataFrame:
    """Ratios, and the first three classes of the walk, under other ridges; means over seeds, classes by seed."""
    rows = []
    for share in RIDGES:
        ratios, walks = [], []
        for trained, looked in found:
            ratios.append(by_coarsening(looked, trained.scheme, ridge_share=share).set_index("labels")["ratio"])
            walk = sorted(turns(looked, trained, ridge_share=share).values(), key=lambda turn: turn.number)
            walks.append(", ".join(turn.name for turn in walk[:3]))
        mean = sum(ratios[1:], ratios[0]) / len(ratios)
        row = {"ridge": f"{share:g}", "binary": f"{mean['binary']:.2f}"}
        row |= {"without kidney": f"{mean['without kidney']:.3f}", "first in the walk, by seed": "; ".join(walks)}
        rows.append(row)
    return pd.DataFrame(rows)


def sampling_error(found: list[tuple[TrainedNetwork, Looked]]) -> float:
    """Largest relative error, over seeds, of the fine variance over the binary one from sampled voxels."""
    errors = []
    for trained, looked in found:
        exact = 1 / by_coarsening(looked, trained.scheme, ridge_share=1e-3).set_index("labels").loc["binary", "ratio"]
        sampled = 1 - sum(turn.drop for turn in turns(looked, trained, ridge_share=1e-3).values())
        errors.append(abs(sampled / exact - 1))
    return max(errors)


def all_parameters(root: Path, output: Path) -> pd.DataFrame:
    """Traces about all parameters, of the first seed; draws the figure on the way."""
    workspace = root / f"seed_{SEEDS[0]}"
    typed = ["fisher", FINE, workspace / "train" / "composed", "--workspace", workspace, "--step-size", STEP_SIZE]
    if main([str(word) for word in [*typed, "--probes", 16]]):
        raise SystemExit(1)
    folder = Workspace(workspace).information_of(FINE)
    with replacing(output) as temporary:
        temporary.write_bytes((folder / "likelihoods.png").read_bytes())
    table = pd.read_csv(folder / "all-parameters.csv")
    shown = table[["labels"]].copy()
    shown["trace"] = [
        f"{one:.1f} ({error:.1f})" for one, error in zip(table["trace"], table["standard_error"], strict=True)
    ]
    shown["lost"] = [f"{value:.3f}" for value in table["lost"]]
    shown["along the target's direction"] = [f"{value:.3f}" for value in table["target_direction"]]
    return shown


TEXT = """# What labels tell a network

`backsplit fisher backsplit` looks at an arm that was trained with auxiliary classes: how much Fisher information
would labels of all its classes, of the targets alone, and of all classes but one carry about it, and what does that
mean for the target? Everything goes to `information/<arm>` in the workspace:

- `labels.csv`: for each set of labels the share of information that is lost, about the logits (in the whole image and
  at the border of lesions) and about the last layer, and the variance of the target's posterior at that border.
- `classes.csv`: the information about the logits by class and by pair of classes, per 1000 voxels.
- `maps/<case>.nii.gz`: what binary labels lose of the information about the logits, from 0 to 1 in each voxel, on the
  grid of the image. It is computed on the network's grid and resampled as nnU-Net resamples probabilities; 0 where
  nnU-Net crops the image.
- `likelihoods.png`: the level sets of the expected log-likelihoods around the network (below).
- `all-parameters.csv`, with `--probes`: the trace of the information about all parameters, with its standard error.

The last layer is exact: $\\sum_v F_v \\otimes h_v h_v^\\top$ over all voxels, with the $K \\times K$ matrix $F_v$ of
a voxel's logits and the features $h_v$ that the layer takes. The variance is the delta method's, $g^\\top (I +
\\rho)^{{-1}} g$ with $g$ the gradient of the target's posterior about the last layer, mean over the voxels on either
side of the surface of lesions. It takes what the network says for the truth, voxels for independent, and all layers
but the last for known. Its size means little; ratios between sets of labels compare.

## On the phantom

Written by `benchmarks/information_study.py`: phantom, {iterations} iterations with all ten auxiliaries, seeds
{seeds}, each over the 30 cases of its training cohort ({voxels} voxels, {border} at the border of cysts). Means over
seeds; ridge 0.001 of the mean eigenvalue of the fine information.

{labels}

Binary labels leave about {ratio:.1f} times the variance of fine ones, though they lose nearly all information about
the logits: most of that is about telling organs apart, far from any cyst. Of the single classes, the kidney matters
most.

The ridge decides how much weak directions count: the larger it is, the smaller the ratio. The first three classes of
the walk of `backsplit select --model`:

{ridges}

Which class comes first depends more on the seed than on the ridge. The walk uses at most 4096 voxels of a case, drawn
by their information and weighted; the variance ratio of fine to binary labels from them is
within {error:.1%} of the exact one in all seeds.

About all parameters, seed {first}, patches around cysts of 8 cases, 16 random directions; standard errors in brackets
are about the directions. The last column is exact, along the direction that moves the cyst's posterior most:

{parameters}

![Level sets](likelihoods.png)

The level sets of the expected log-likelihood as the logits of the cyst and of the class that binary labels lose most
about move, at the same levels: where binary labels see a valley, fine ones see a bowl.
"""


def write(root: Path, path: Path, figure: Path) -> None:
    """Look, then sum up."""
    found = [looked_at(root, seed) for seed in SEEDS]
    tables = [by_coarsening(looked, trained.scheme, ridge_share=1e-3) for trained, looked in found]
    ratio = float(np.mean([table.set_index("labels").loc["binary", "ratio"] for table in tables]))
    numbers = {"iterations": ITERATIONS, "seeds": ", ".join(map(str, SEEDS)), "first": SEEDS[0], "ratio": ratio}
    counts = [(int(table["num_voxels"].iloc[0]), int(table["num_border"].iloc[0])) for table in tables]
    text = TEXT.format(
        labels=markdown(labels_table(tables)),
        ridges=markdown(ridge_table(found)),
        parameters=markdown(all_parameters(root, figure)),
        error=sampling_error(found),
        voxels=" ".join(f"{number}" for number in sorted({number for number, _ in counts})),
        border=" to ".join(str(pick(number for _, number in counts)) for pick in (min, max)),
        **numbers,
    )
    write_text(text, path)


if __name__ == "__main__":
    write(*map(Path, sys.argv[1:4]))
