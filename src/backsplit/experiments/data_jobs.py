"""The jobs that bring a data set to where arms are trained on it, and the content addresses of what is made."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from backsplit import cases
from backsplit.experiments.grid import Check, Job
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
        self._filed: dict[str, str] = {}
        self._told: dict[str, dict[str, Any]] = {}
        for each, masks in data.masks.items():
            told = self._told[each] = self._telling(masks)
            self._filed |= zip(masks.sets(each), masks.sets(f"{each}-{address_of(told)}"), strict=True)
        plan = data.prepare.model_dump(mode="json")
        classes = [data.targets, data.auxiliaries, self.filed(data.sources[0])]
        self.address = f"{name}-{address_of(identity, classes, plan)}"
        self.workspace = store.data(self.address)
        self.cohort = data.cohort if data.cohort is not None else store.converted(self.converted)

    def filed(self, source: str) -> str:
        """What a source is called in the store, where masks that are made otherwise have another name."""
        return "+".join(self._filed.get(each, each) for each in source.split("+"))

    @property
    def sources(self) -> tuple[str, ...]:
        """Those of the recipe, and those that the composed data has already; as they are filed."""
        ours = tuple(map(self.filed, self.data.sources))
        if not (self.workspace.cohort / cases.MANIFEST_NAME).exists():
            return ours
        there = tuple(masks.name for masks in cases.read(self.workspace.cohort).masks)
        return tuple(dict.fromkeys((*(there or ours[:1]), *ours)))

    @property
    def prepared(self) -> str:
        """The job after which arms can be trained."""
        return f"prepare/{self.address}.{address_of(self.sources)}"

    def checks(self) -> Iterator[Check]:
        """What masks are compared with."""
        folder = self.cohort if self.cohort.is_dir() or self.data.cohort is None else self.cohort.parent
        for name, masks in self.data.masks.items():
            for each in masks.sets(name) if masks.check else ():
                file = folder / "masks" / self.filed(each) / f"check-{self.filed(str(masks.check))}.csv"
                yield Check(self.name, each, str(masks.check), file)

    def jobs(self, *, is_trained_on: bool) -> Iterator[Job]:
        """In their order; masks are the last where nothing is trained."""
        before: tuple[str, ...] = ()
        if self.data.cohort is None:
            yield Job(f"convert/{self.converted}", ("convert", *self._conversion()))
            before = (f"convert/{self.converted}",)
        for name, masks in self.data.masks.items():
            filed, told = self.filed(name), self._told[name]
            typed = ("annotate", str(self.cohort), "--source", masks.source, "--name", filed)
            job = f"annotate/{self.converted}.{filed}"
            once = () if masks.trained is None else self.models[masks.trained].jobs
            yield Job(job, (*typed, *typed_options(told)), before, once, uses_gpu=masks.source not in WITHOUT_NETWORK)
            before = (job,)  # one at a time: each writes the manifest
        if not is_trained_on:
            return
        sources, data = self.sources, self.data
        where = ("--workspace", str(self.workspace.root))
        classes = typed_options({"targets": data.targets, "auxiliaries": data.auxiliaries or None})
        is_open = sources == (cases.OWN_LABELS,) and (data.cohort is not None or data.masks)  # looks everywhere
        named = () if is_open else ("--sources", *sources)
        named += ("--allow-empty",) if any(masks.trained for masks in data.masks.values()) else ()
        composed = f"compose/{self.address}.{address_of(sources)}"
        yield Job(composed, ("compose", str(self.cohort), *classes, *named, *where), before)
        plan = data.prepare.model_dump(mode="json", exclude_none=True)
        yield Job(self.prepared, ("prepare", *typed_options(plan), *where), (composed,))

    def _telling(self, masks: Masks) -> dict[str, Any]:
        """What `annotate` is told beside cohort, source and name."""
        told = {"structures": list(masks.structures) or None, "check": masks.check, **masks.options}
        told |= {key: self.filed(str(told[key])) for key in ("check", "reference") if told.get(key) is not None}
        if masks.trained is None:
            return told
        model = self.models[masks.trained]
        return {**told, "model": model.name, "workspace": str(model.workspace.root), "folds": list(model.folds)}

    def _conversion(self) -> tuple[str, ...]:
        destination = str(self.store.converted(self.converted))
        if self.data.phantom is not None:
            return ("phantom", destination, *typed_options(self.data.phantom.model_dump()))
        return (str(self.data.convert), str(self.data.folder), destination, *typed_options(self.data.options))
