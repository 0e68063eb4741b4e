"""The whole path on a made-up data set: the commands a user would type, one after another."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from backsplit.cli.arguments import DEFAULT_WORKSPACE, say
from backsplit.cli.convert import ConvertPhantom
from backsplit.cli.data import Compose, Prepare
from backsplit.cli.models import Predict
from backsplit.cli.results import Compare, Evaluate, Report
from backsplit.cli.training import Train
from backsplit.experiments.paths import Workspace

NUM_TRAINING_CASES, NUM_TEST_CASES = 30, 24  # fold 0 trains on 24 and watches 6
TEST_SEED = 1_000_000  # patients that no training sees, whatever the demo's seed
FEATURES, PATCH_SIZE, BATCH_SIZE = (8, 16, 32, 64), (40, 40, 40), 2
STEP_SIZE = 0.6  # 8 tiles a case; 0.5 would take 27
TOLERANCE_MM = 5.0  # one voxel of the phantom

Step = ConvertPhantom | Compose | Prepare | Train | Predict | Evaluate | Compare | Report


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
        """Run the commands, each as a user would type it."""
        for typed, step in self.steps():
            say(f"\n$ backsplit {typed}")
            step.run()

    def steps(self) -> Iterator[tuple[str, Step]]:
        """What is typed, without the workspace and small print, and what is run."""
        from backsplit.datasets.phantom import PHANTOM_SCHEME

        root, seed = self.workspace, self.seed
        train, test = root / "phantom", root / "phantom-test"
        test_cohort = Workspace(root).test_cohort
        targets, auxiliaries = PHANTOM_SCHEME.targets, PHANTOM_SCHEME.auxiliaries
        classes = f"--targets {' '.join(targets)} --auxiliaries {' '.join(auxiliaries)}"
        yield f"convert phantom {train}", ConvertPhantom(train, num_cases=NUM_TRAINING_CASES, seed=seed)
        yield f"convert phantom {test}", ConvertPhantom(test, num_cases=NUM_TEST_CASES, seed=TEST_SEED)
        yield f"compose {train} {classes}", Compose(train, targets, auxiliaries, workspace=root)
        yield f"compose {test} {classes}", Compose(test, targets, auxiliaries, output=test_cohort)
        yield "prepare", Prepare(workspace=root, features=FEATURES, patch_size=PATCH_SIZE, batch_size=BATCH_SIZE)
        for arm in ("binary", "backsplit"):
            yield f"train --arm {arm}", Train(arm=arm, workspace=root, budget="demo", epochs=self.epochs, seed=seed)
            yield (
                f"predict {arm} {test_cohort}",
                Predict(arm, test_cohort, workspace=root, mirroring=False, step_size=STEP_SIZE),
            )
        yield f"evaluate --tolerance-mm {TOLERANCE_MM}", Evaluate((TOLERANCE_MM,), workspace=root)
        yield "compare", Compare(workspace=root)
        yield f"report {root}", Report(root)
