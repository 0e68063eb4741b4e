"""The jobs that bring a data set to where arms are trained on it, and the content addresses of what is made."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from backsplit import cases
from backsplit.experiments.grid import Job
from backsplit.experiments.paths import Store, Workspace
from backsplit.experiments.recipes import Data, Masks, Trained
from backsplit.files import stamps

WITHOUT_NETWORK = ("labels", "folder", "tissue")
"""Sources of masks that no GPU helps."""


def address_of(*content: Any) -> str:  # noqa: ANN401  any JSON
    """Content address of settings, for this version of the package."""
    return hashlib.sha256(json.dumps([*content, version("backsplit")], sort_keys=True).encode()).hexdigest()[:8]


def identity_of(data: Data, store: Store) -> str:
    """What tells data from other data: settings, and the sizes and times of the files that it is made from; JSON."""
    origin = data.model_dump(mode="json", include={"cohort", "convert", "folder", "options", "phantom"})
    if data.folder is not None:
        folder = data.folder.resolve()
        origin["folder"] = [str(folder), _digest(_downloaded(folder, store))]
    if data.cohort is not None:
        files = [file for case in cases.read(data.cohort).cases for file in _given_files(case, data)]
        origin["cohort"] = [str(data.cohort.resolve()), _digest(files)]
    return json.dumps(origin, sort_keys=True)


def _digest(files: Iterable[Path]) -> str:
    return hashlib.sha256("\n".join(stamps(files)).encode()).hexdigest()


def _downloaded(folder: Path, store: Store) -> Iterator[Path]:
    """Files of a download in their order, but for hidden ones, and for a store that lies in it."""
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name[0] != "." and Path(here, name) != store.root)
        yield from (Path(here, name) for name in sorted(names) if name[0] != ".")


def _given_files(case: cases.Case, data: Data) -> tuple[Path, ...]:
    """Files of a case without the masks that the recipe itself adds."""
    ours = {masks.path for masks in case.masks if masks.source.startswith(tuple(data.masks))}
    return tuple(file for file in case.files if file not in ours)


def typed_options(options: Mapping[str, Any]) -> list[str]:
    """Options of a recipe as they are typed."""
    typed = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            typed.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            typed += [f"--{flag}", *(str(each) for each in (value if isinstance(value, list | tuple) else [value]))]
    return typed


class Model(NamedTuple):
    """A trained arm, to make masks with."""

    workspace: Workspace
    name: str
    folds: tuple[int, ...]
    jobs: tuple[str, ...]


class DataJobs:
    """Convert, annotate, compose, prepare: once for all arms, networks, seeds and recipes."""

    def __init__(self, store: Store, name: str, data: Data, models: Mapping[Trained, Model]) -> None:
        self.name, self.data, self.store, self.models = name, data, store, models
        identity = identity_of(data, store)
        self.converted = f"{name}-{address_of(identity)}"
        first = [self._told(data.masks[each]) for each in data.sources[0].split("+") if each in data.masks]
        plan = data.prepare.model_dump(mode="json")
        classes = [data.targets, data.auxiliaries, data.sources[0], first]
        self.address = f"{name}-{address_of(identity, classes, plan)}"
        self.workspace = store.data(self.address)
        self.cohort = data.cohort if data.cohort is not None else store.converted(self.converted)

    @property
    def sources(self) -> tuple[str, ...]:
        """Those of the recipe, and those that the composed data has already."""
        if not (self.workspace.cohort / cases.MANIFEST_NAME).exists():
            return self.data.sources
        there = tuple(masks.name for masks in cases.read(self.workspace.cohort).masks)
        return tuple(dict.fromkeys((*(there or self.data.sources[:1]), *self.data.sources)))

    @property
    def prepared(self) -> str:
        """The job after which arms can be trained."""
        return f"prepare/{self.address}.{address_of(self.sources)}"

    def jobs(self) -> Iterator[Job]:
        """In their order."""
        before: tuple[str, ...] = ()
        if self.data.cohort is None:
            yield Job(f"convert/{self.converted}", ("convert", *self._conversion()))
            before = (f"convert/{self.converted}",)
        for name, masks in self.data.masks.items():
            typed = ("annotate", str(self.cohort), "--source", masks.source, "--name", name)
            told = self._told(masks)
            job = f"annotate/{self.converted}.{name}-{address_of(told)}"
            once = () if masks.trained is None else self.models[masks.trained].jobs
            yield Job(job, (*typed, *typed_options(told)), before, once, uses_gpu=masks.source not in WITHOUT_NETWORK)
            before = (job,)  # one at a time: each writes the manifest
        sources, data = self.sources, self.data
        where = ("--workspace", str(self.workspace.root))
        classes = typed_options({"targets": data.targets, "auxiliaries": data.auxiliaries or None})
        named = () if sources == (cases.OWN_LABELS,) else ("--sources", *sources)
        composed = f"compose/{self.address}.{address_of(sources)}"
        yield Job(composed, ("compose", str(self.cohort), *classes, *named, *where), before)
        plan = data.prepare.model_dump(mode="json", exclude_none=True)
        yield Job(self.prepared, ("prepare", *typed_options(plan), *where), (composed,))

    def _told(self, masks: Masks) -> dict[str, Any]:
        """What `annotate` is told beside cohort, source and name."""
        told = {"structures": list(masks.structures) or None, "check": masks.check, **masks.options}
        if masks.trained is None:
            return told
        model = self.models[masks.trained]
        return {**told, "model": model.name, "workspace": str(model.workspace.root), "folds": list(model.folds)}

    def _conversion(self) -> tuple[str, ...]:
        destination = str(self.store.converted(self.converted))
        if self.data.phantom is not None:
            return ("phantom", destination, *typed_options(self.data.phantom.model_dump()))
        return (str(self.data.convert), str(self.data.folder), destination, *typed_options(self.data.options))
