"""The whole path on a made-up data set: the commands a user would type, one after another."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from backsplit.cli.arguments import DEFAULT_WORKSPACE, say
from backsplit.cli.data import Compose, ConvertPhantom, Prepare
from backsplit.cli.models import Predict, Train
from backsplit.cli.results import Compare, Evaluate, Report
from backsplit.experiments.paths import Workspace

NUM_TRAINING_CASES, NUM_TEST_CASES, SIZE = 30, 24, 64  # a fold trains on 24 and watches 6
TEST_SEED = 1_000_000  # patients that no training sees, whatever the demo's seed
FEATURES, PATCH_SIZE, BATCH_SIZE = (8, 16, 32, 64), (40, 40, 40), 2
TOLERANCE_MM = 2.0


@dataclass(frozen=True)
class Demo:
    """Train a binary and a BackSplit arm on a made-up CT data set, compare them on unseen cases, write the page.

    Takes minutes on a laptop without GPU. A second call goes on where the first was stopped.

    Example: backsplit demo
    """

    workspace: Path = DEFAULT_WORKSPACE
    """Folder of the study."""
    seed: int = 0
    """Of training cases, initial weights and patches."""
    epochs: int | None = None
    """Epochs of 50 iterations per arm, instead of the demo's."""

    def run(self) -> None:
        """Run the commands."""
        from backsplit.datasets.phantom import PHANTOM_SCHEME

        root = self.workspace
        paths = Workspace(root)
        training, test = root / "phantom", root / "phantom-test"
        small = {"features": FEATURES, "patch_size": PATCH_SIZE, "batch_size": BATCH_SIZE}
        classes = {"targets": PHANTOM_SCHEME.targets, "auxiliaries": PHANTOM_SCHEME.auxiliaries}
        steps = [
            ConvertPhantom(training, num_cases=NUM_TRAINING_CASES, size=SIZE, seed=self.seed),
            ConvertPhantom(test, num_cases=NUM_TEST_CASES, size=SIZE, seed=TEST_SEED),
            Compose(training, workspace=root, **classes),
            Compose(test, output=paths.test_cohort, workspace=root, **classes),
            Prepare(workspace=root, **small),
        ]
        for arm in ("binary", "backsplit"):
            steps.append(Train(arm, workspace=root, budget="demo", epochs=self.epochs, seed=self.seed))
            steps.append(Predict(arm, paths.test_cohort, workspace=root, mirroring=False))
        steps += [Evaluate(TOLERANCE_MM, workspace=root), Compare(workspace=root), Report(root)]
        for step in steps:
            say(f"\n$ {_spell(step)}")
            step.run()


def _spell(step: object) -> str:
    return shlex.join([type(step).__name__.lower()])
