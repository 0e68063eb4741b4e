"""What does not fit together in a recipe, found before anything runs."""

from collections.abc import Iterator
from itertools import product

from backsplit import cases
from backsplit.datasets.phantom import PHANTOM_SCHEME
from backsplit.errors import BackSplitError
from backsplit.evaluation import paper_numbers
from backsplit.experiments.recipe_files import Draft, Keys
from backsplit.experiments.recipes import ArmChoice, Data, Masks, Network, Recipe
from backsplit.labels import LabelScheme
from backsplit.learning.networks import FROM_MONAI, has_deep_supervision
from backsplit.nnunet.arms import BUDGETS, Arm, ArmSettings
from backsplit.nnunet.networks import NetworkSettings, configuration_of
from backsplit.nnunet.parameters import KITS23

Faults = Iterator[tuple[Keys, str]]


def check(recipe: Recipe, draft: Draft) -> None:
    """Note in the draft all that cannot work; parts that are no parts of a recipe are not looked at again."""
    above: list[str] = []
    for name, data in recipe.data.items():
        _note(draft, ("data", name), _of_data(data, recipe.folds))
        for key, masks in data.masks.items():
            _note(draft, ("data", name, "masks", key), _of_model(masks, recipe, above))
        above.append(name)
    for name, network in recipe.networks.items():
        _note(draft, ("networks", name), _of_network(network, recipe))
    for name, arm in recipe.arms.items():
        _note(draft, ("arms", name), _of_arm(name, arm, recipe))
    _note(draft, (), _of_whole(recipe))
    trained, checked = ("networks", "arms"), [masks for data in recipe.data.values() for masks in data.masks.values()]
    if draft.content.keys() & {*trained} or not any(masks.check for masks in checked):
        for key in trained:
            if key not in draft.content:
                draft.fault((key,), "is missing; add it (a recipe that trains nothing has masks with `check`)")


def _note(draft: Draft, above: Keys, faults: Faults) -> None:
    for keys, what in faults:
        draft.fault((*above, *keys), what)


def _of_whole(recipe: Recipe) -> Faults:
    for keys, listed in ((("folds",), recipe.folds), (("seeds",), recipe.seeds)):
        if len(set(listed)) < len(listed):
            yield keys, f"{list(listed)} has a number twice; name each once"
    if recipe.arms and recipe.baseline not in recipe.arms:
        yield ("baseline",), f"{recipe.baseline!r} is no arm; choose one of {', '.join(recipe.arms)}"
    for data, network in product(recipe.data, recipe.networks):
        arms = recipe.arms_of(data, network)
        if len(arms) > 1 and recipe.baseline in recipe.arms and recipe.baseline not in arms:
            yield ("baseline",), f"{recipe.baseline!r} is not trained on {data} with {network}, where others are"
    if recipe.report.paper_table is not None:
        try:
            paper_numbers(recipe.report.paper_table)
        except BackSplitError as error:
            yield ("report", "paper_table"), str(error)


def _of_data(data: Data, folds: tuple[int, ...]) -> Faults:
    origins = [key for key in ("cohort", "convert", "phantom") if getattr(data, key) is not None]
    if len(origins) != 1:
        yield (), f"comes from {' and '.join(origins) or 'nowhere'}; give one of cohort, convert with folder, phantom"
    if (data.convert is None) != (data.folder is None):
        yield (), "convert and folder go together; give both (reproduce: --data NAME=FOLDER)"
    for key in ("cohort", "folder"):
        path = getattr(data, key)
        if path is not None and not path.exists():
            yield (key,), f"{path} does not exist; mend the path"
    beyond = [fold for fold in folds if fold >= data.prepare.folds]
    if beyond and data.prepare.splits is None:
        yield ("prepare", "folds"), f"folds {beyond} are wanted, there are 0 to {data.prepare.folds - 1}; change one"
    if data.phantom is not None and data.phantom.num_cases < data.prepare.folds:
        yield ("phantom", "num_cases"), f"{data.phantom.num_cases} cases cannot make {data.prepare.folds} folds"
    yield from _of_classes(data)
    yield from _of_masks(data)
    yield from _of_plan(data)


def _of_classes(data: Data) -> Faults:
    try:
        LabelScheme(data.targets, data.auxiliaries)
    except BackSplitError as error:
        yield ("auxiliaries",), str(error)
    known, masked = _label_classes(data), {name for masks in data.masks.values() for name in masks.given}
    if known is None:
        return
    for key, names, there in (("targets", data.targets, known), ("auxiliaries", data.auxiliaries, known | masked)):
        for name in names:
            if name not in there and (key == "targets" or not _has_open_masks(data)):
                yield (key,), f"no class {name!r} in the data; it has {', '.join(sorted(there))}"


def _has_open_masks(data: Data) -> bool:
    """Whether some masks have structures that only their source knows."""
    return any(not masks.structures for masks in data.masks.values())


def _label_classes(data: Data) -> set[str] | None:
    """Classes of the label maps, and of masks that a cohort has already; None where only the converter knows."""
    if data.phantom is not None:
        return set(PHANTOM_SCHEME.names[1:])
    if data.cohort is None or not data.cohort.exists():
        return None
    try:
        cohort = cases.read(data.cohort)
    except BackSplitError:
        return None  # said by _of_masks
    return {name for value, name in cohort.label_names if value} | {n for m in cohort.masks for n in m.structures}


def _of_masks(data: Data) -> Faults:
    known = {cases.OWN_LABELS, *(each for name, masks in data.masks.items() for each in masks.sets(name))}
    if data.cohort is not None and data.cohort.exists():
        try:
            known |= {masks.name for masks in cases.read(data.cohort).masks}
        except BackSplitError as error:
            yield ("cohort",), str(error)
            return
    for number, source in enumerate(data.sources):
        for name in source.split("+"):
            if name not in known:
                yield ("sources", number), f"no masks called {name!r}; there are {', '.join(sorted(known))}"
    if len(set(data.sources)) < len(data.sources):
        yield ("sources",), "a source is there twice; name each once"
    for name, masks in data.masks.items():
        if masks.check is not None and masks.check not in known - {name}:
            yield ("masks", name, "check"), f"no masks called {masks.check!r} to compare with"


def _of_model(masks: Masks, recipe: Recipe, above: list[str]) -> Faults:
    """What a source of masks gets its model from."""
    has_model = masks.trained is not None or "model" in masks.options
    if (masks.source == "nnunet") != has_model and masks.source != "nninteractive":
        yield ("source",), f"{masks.source} {'takes no' if has_model else 'needs a'} model: options.model, or trained"
    if masks.trained is not None:
        data, arm, network = masks.trained.data, masks.trained.arm, masks.trained.network
        if data not in above:
            yield ("trained", "data"), f"{data!r} is no data set above this one; there are {', '.join(above) or 'none'}"
        elif network not in recipe.networks or arm not in recipe.arms_of(data, network):
            yield ("trained", "arm"), f"no arm {arm!r} is trained on {data} with {network}"


def _of_plan(data: Data) -> Faults:
    plan = data.prepare
    if data.phantom is not None and (plan.patch_size or plan.features):
        yield from _fits(Network(network="unet", patch_size=plan.patch_size, features=plan.features), ("prepare",))


def _of_network(network: Network, recipe: Recipe) -> Faults:
    yield from _known(network.data, recipe.data, "data")
    try:
        has_deep_supervision(network.network, network.deep_supervision)
    except BackSplitError as error:
        yield ("deep_supervision",), str(error)
    is_phantom = any(data.phantom is not None for name, data in recipe.data.items() if name in (network.data or [name]))
    num_edges = 2 if network.network == "unet-2d" else 3
    if network.patch_size is not None and len(network.patch_size) != num_edges:
        yield ("patch_size",), f"{network.network} takes {num_edges} edges, got {len(network.patch_size)}"
    elif (network.patch_size or network.features) and (is_phantom or network.network in FROM_MONAI):
        yield from _fits(network, ())


def _fits(network: Network, above: Keys) -> Faults:
    """Whether a network can have its patch and features, on voxels that are about as long as wide."""
    settings = NetworkSettings(network.patch_size, network.batch_size, network.features)
    try:
        configuration_of(network.network, KITS23, settings)
    except BackSplitError as error:
        yield (*above, "features" if network.patch_size is None else "patch_size"), str(error)


def _known(names: tuple[str, ...], there: dict, key: str) -> Faults:
    for number, name in enumerate(names):
        if name not in there:
            yield (key, number), f"{name!r} is none of the {key}; there are {', '.join(there)}"


def _of_arm(name: str, arm: ArmChoice, recipe: Recipe) -> Faults:
    yield from _known(arm.data, recipe.data, "data")
    yield from _known(arm.networks, recipe.networks, "networks")
    baseline = recipe.arms.get(recipe.baseline)
    if baseline is not None and not _has_equal_patches(baseline, arm):
        ours, theirs = (each.loss_and_sampling[1] for each in (arm, baseline))
        yield (), f"patches are centred on {ours}, of {recipe.baseline} on {theirs}; give both the same preset"
    if arm.start is not None and arm.start not in recipe.arms:
        yield ("start",), f"{arm.start!r} is no arm; choose one of {', '.join(recipe.arms)}"
    elif arm.start is not None and (arm.start == name or recipe.arms[arm.start].arm != "binary"):
        yield ("start",), f"{arm.start!r} is no arm of the targets alone; a fine-tuning starts from a binary one"
    told = set()
    for data_name, data in recipe.data.items():
        if data_name not in (arm.data or [data_name]):
            continue
        if arm.source is not None and arm.source not in data.sources:
            yield ("source",), f"{arm.source!r} is none of the sources of {data_name}: {', '.join(data.sources)}"
        try:
            scheme = LabelScheme(data.targets, data.auxiliaries)
        except BackSplitError:
            continue  # said of the data
        try:
            choice = Arm(arm.arm, arm.auxiliaries, arm.fraction, arm.missing)
            ArmSettings(choice, scheme, BUDGETS["demo"], source=arm.source)
        except BackSplitError as error:
            if str(error) not in told:
                yield ("auxiliaries",) if arm.auxiliaries else (), f"{data_name}: {error}"
            told.add(str(error))


def _has_equal_patches(baseline: ArmChoice, arm: ArmChoice) -> bool:
    """Whether `compare` would take both: patches on any class of a binary arm are patches on its targets."""
    ours, theirs = arm.loss_and_sampling[1], baseline.loss_and_sampling[1]
    return ours == theirs or (baseline.arm == "binary" and (theirs, ours) == ("any", "target"))
