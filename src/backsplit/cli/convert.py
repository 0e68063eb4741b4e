"""Data sets as downloaded: one command per data set, all `backsplit convert NAME SRC DST`."""

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from backsplit.cli.arguments import say

if TYPE_CHECKING:
    from backsplit.datasets.conversion import Conversion
    from backsplit.datasets.download import Download


@dataclass(frozen=True, kw_only=True)
class ConvertDownload(ABC):
    """What all data sets share."""

    source: Positional[Path]
    """Folder of the download."""
    destination: Positional[Path]
    """Folder that the manifest cohort.json goes to."""
    name: str | None = None
    """Name of the cohort; by default that of the data set."""
    check: bool = False
    """Only say what would be done: cases, classes, geometry, and what would be dropped and why. Writes nothing."""
    allow_drops: bool = False
    """Go on without the cases that cannot be used; the manifest lists them with the reason. By default they are an
    error, and nothing but the manifest is missing once they are mended."""
    jobs: int = min(8, os.cpu_count() or 1)
    """Cases at a time."""

    def run(self) -> None:
        """Check every case, then write the manifest."""
        from backsplit.cases import MANIFEST_NAME
        from backsplit.datasets import conversion

        if self.check:
            checked = conversion.check(self.opened(), name=self.name, num_processes=self.jobs)
            _say(checked)
            if not self.allow_drops:
                conversion.require_whole(checked)
            return
        done = conversion.convert(
            self.opened(),
            self.destination,
            name=self.name,
            num_processes=self.jobs,
            allow_drops=self.allow_drops,
        )
        _say(done)
        say(f"{self.destination / MANIFEST_NAME}")

    @abstractmethod
    def opened(self) -> "Download[Any]":
        """The data set, ready to be converted."""


def _say(conversion: "Conversion") -> None:
    import pandas as pd

    from backsplit.datasets.conversion import summarise
    from backsplit.evaluation import format_table

    cohort = conversion.cohort
    say(format_table(pd.DataFrame(summarise(conversion))))
    say(f"{len(cohort.cases)} cases of {len({case.group for case in cohort.cases})} patients; {_geometry(conversion)}")
    for case in cohort.dropped:
        say(f"dropped: {case.name}: {case.reason}")


def _geometry(conversion: "Conversion") -> str:
    def ranges(key: str) -> str:
        axes = zip(*(record[key] for record in conversion.records.values()), strict=True)
        return " x ".join(
            f"{min(axis):g}" if min(axis) == max(axis) else f"{min(axis):g}-{max(axis):g}" for axis in axes
        )

    return f"{ranges('shape')} voxels of {ranges('spacing_mm')} mm"


@dataclass(frozen=True, kw_only=True)
class ConvertAbdomenAtlas(ConvertDownload):
    """AbdomenAtlas 1.0 Mini: nine organs on CT, to train an organ model on.

    Then: backsplit compose cohorts/atlas --targets aorta gall_bladder kidney_left kidney_right liver pancreas postcava
    spleen stomach

    Example: backsplit convert abdomenatlas AbdomenAtlas1.0Mini cohorts/atlas
    """

    def opened(self) -> "Download[Any]":
        """The data set."""
        from backsplit.datasets.abdomenatlas import open_abdomenatlas

        return open_abdomenatlas(self.source)


@dataclass(frozen=True, kw_only=True)
class ConvertAutoPet3(ConvertDownload):
    """AutoPET III: tumours on whole-body PET/CT; patients stay together, the official folds are kept.

    Then, with organs from a source: backsplit annotate cohorts/autopet3 --source totalsegmentator
    and: backsplit compose cohorts/autopet3 --targets tumor --auxiliaries liver spleen kidney_left kidney_right

    Example: backsplit convert autopet3 PSMA-FDG-PET-CT-Lesions_v2 cohorts/autopet3
    """

    def opened(self) -> "Download[Any]":
        """The data set."""
        from backsplit.datasets.autopet3 import open_autopet3

        return open_autopet3(self.source)


@dataclass(frozen=True, kw_only=True)
class ConvertKits23(ConvertDownload):
    """KiTS23: kidney, tumor and cyst on CT; images stay where they are.

    Then: backsplit compose cohorts/kits23 --targets cyst --auxiliaries kidney tumor

    Example: backsplit convert kits23 kits23/dataset cohorts/kits23

    Example: backsplit convert kits23 kits23/dataset cohorts/made-up --synthetic-images --spacing-mm 4
    """

    organ: Literal["parts", "whole"] = "parts"
    """parts: kidney without its lesions, tumor, cyst; whole: the lesion that is not --target counts as kidney, as an
    organ model would see it."""
    target: Literal["cyst", "tumor"] = "cyst"
    """For --organ whole."""
    annotation: str | None = None
    """majority, or the number of an annotator, from the objects in instances/; by default the released label maps."""
    synthetic_images: bool = False
    """Make images up around the real kidneys, where there are labels alone: to try things out, not to publish."""
    seed: int = 0
    """Of the images that are made up."""
    spacing_mm: float | None = None
    """Edge of the voxels of made-up images and their labels, for small machines; by default the labels' own grid."""

    def opened(self) -> "Download[Any]":
        """The data set."""
        from backsplit.datasets.kits23 import Synthesis, open_kits23
        from backsplit.errors import ConfigurationError

        if self.spacing_mm is not None and not self.synthetic_images:
            raise ConfigurationError("--spacing-mm is for --synthetic-images; real images keep their grid")
        return open_kits23(
            self.source,
            organ=self.organ,
            target=self.target,
            annotation=self.annotation,
            synthesis=Synthesis(self.seed, self.spacing_mm) if self.synthetic_images else None,
        )


@dataclass(frozen=True, kw_only=True)
class ConvertMsd(ConvertDownload):
    """A task of the Medical Segmentation Decathlon; images of several channels are split.

    Then: backsplit compose cohorts/liver --targets tumor --auxiliaries liver    (pancreas and vessel in tasks 7 and 8)

    Example: backsplit convert msd Task03_Liver cohorts/liver
    """

    def opened(self) -> "Download[Any]":
        """The data set."""
        from backsplit.datasets.msd import open_msd

        return open_msd(self.source)


@dataclass(frozen=True, kw_only=True)
class ConvertMswal(ConvertDownload):
    """MSWAL: seven kinds of lesions on abdominal CT.

    Then: backsplit compose cohorts/mswal --targets gallstone kidney_stone liver_tumor kidney_tumor pancreatic_cancer
    liver_cyst kidney_cyst --auxiliaries liver spleen (from masks that `annotate` adds)

    Example: backsplit convert mswal MSWAL cohorts/mswal
    """

    def opened(self) -> "Download[Any]":
        """The data set."""
        from backsplit.datasets.mswal import open_mswal

        return open_mswal(self.source)


@dataclass(frozen=True, kw_only=True)
class ConvertNnunet(ConvertDownload):
    """A raw data set of nnU-Net v2, or of the Medical Segmentation Decathlon; images stay where they are.

    Example: backsplit convert nnunet Dataset004_Hippocampus cohorts/hippocampus
    """

    test: bool = False
    """Read imagesTs, which has no labels, instead of imagesTr."""

    def opened(self) -> "Download[Any]":
        """The data set."""
        from backsplit.datasets.nnunet import open_raw

        return open_raw(self.source, split="test" if self.test else "training")


@dataclass(frozen=True, kw_only=True)
class ConvertNsclcRadiomics(ConvertDownload):
    """NSCLC-Radiomics (Lung1): lung tumours on CT, from DICOM. Patients get names that do not give them away.

    Then: backsplit compose cohorts/lung1 --targets gtv-1 --auxiliaries lung heart esophagus spinal_cord

    Example: backsplit convert nsclc-radiomics manifest-1603198545583 cohorts/lung1 --allow-drops
    """

    targets: tuple[str, ...] = ("gtv-1",)
    """Contoured tumours to keep, such as gtv-1 gtv-2; a patient with none of them is dropped, and told which it has."""
    contours: Literal["auto", "rtstruct", "seg"] = "auto"
    """auto: the RTSTRUCT, and the SEG where there is none. SEG lacks nodes, and lies on the grid of the CT exactly."""
    sides: Literal["merge", "keep"] = "merge"
    """merge: one class lung; keep: lung_left and lung_right, unknown where both were contoured as one."""
    salt_file: Path | None = None
    """Key of the pseudonyms, made if it is not there; who holds it can tell which patient is which. By default in your
    configuration folder, never in the destination. The same key gives the same names."""

    def opened(self) -> "Download[Any]":
        """The data set."""
        from backsplit.datasets.pseudonyms import read_salt
        from backsplit.errors import ConfigurationError

        try:
            from backsplit.datasets.nsclc_radiomics import open_nsclc_radiomics
        except ModuleNotFoundError as error:
            raise ConfigurationError(f'DICOM needs {error.name}; pip install "backsplit[dicom]"') from error
        salt = read_salt(self.salt_file, output=self.destination)
        return open_nsclc_radiomics(
            self.source, salt=salt, targets=self.targets, contours=self.contours, sides=self.sides
        )


@dataclass(frozen=True, kw_only=True)
class ConvertPanther(ConvertDownload):
    """PANTHER, task 1: pancreatic tumours on MR.

    Then: backsplit compose cohorts/panther --targets tumor --auxiliaries pancreas

    Example: backsplit convert panther PANTHER_Task1 cohorts/panther
    """

    def opened(self) -> "Download[Any]":
        """The data set."""
        from backsplit.datasets.panther import open_panther

        return open_panther(self.source)


@dataclass(frozen=True)
class ConvertPhantom:
    """A made-up abdominal CT: kidney cysts as the target, and fluid elsewhere that looks like them.

    Example: backsplit convert phantom cohorts/phantom --num-cases 24 --size 64
    """

    destination: Positional[Path]
    """Folder for images, labels and the manifest cohort.json."""
    num_cases: int = 24
    """How many patients to draw."""
    size: int = 64
    """Voxels along each axis."""
    seed: int = 0
    """The same seed draws the same patients; different seeds share none."""

    def run(self) -> None:
        """Draw the cases, then write the manifest."""
        from backsplit.datasets.phantom import PhantomSettings, write_cohort

        settings = PhantomSettings(shape=(self.size, self.size, self.size))
        cohort = write_cohort(self.destination, num_cases=self.num_cases, settings=settings, seed=self.seed)
        say(f"{len(cohort.cases)} cases with {', '.join(name for _, name in cohort.label_names)}")
        say(f"{self.destination / 'cohort.json'}")


@dataclass(frozen=True)
class Convert:
    """Describe a data set as a cohort: one manifest that all other commands read.

    Example: backsplit convert nnunet Dataset004_Hippocampus cohorts/hippocampus
    """

    data_set: (
        Annotated[ConvertAbdomenAtlas, tyro.conf.subcommand("abdomenatlas")]
        | Annotated[ConvertAutoPet3, tyro.conf.subcommand("autopet3")]
        | Annotated[ConvertKits23, tyro.conf.subcommand("kits23")]
        | Annotated[ConvertMsd, tyro.conf.subcommand("msd")]
        | Annotated[ConvertMswal, tyro.conf.subcommand("mswal")]
        | Annotated[ConvertNnunet, tyro.conf.subcommand("nnunet")]
        | Annotated[ConvertNsclcRadiomics, tyro.conf.subcommand("nsclc-radiomics")]
        | Annotated[ConvertPanther, tyro.conf.subcommand("panther")]
        | Annotated[ConvertPhantom, tyro.conf.subcommand("phantom")]
    )

    def run(self) -> None:
        """Convert."""
        self.data_set.run()
