"""The output folder of a fit."""

import yaml

from gmmpipe.fitting.checkpoint import FIT_FILES, FitState
from gmmpipe.fitting.options import FitOptions
from gmmpipe.fitting.schedule import Schedule
from gmmpipe.mixture.model_file import write_model
from gmmpipe.run.run_folder import RunFolder
from gmmpipe.run.world import World
from gmmpipe.store.feature_store import FeatureStore
from gmmpipe.tracking.tracker import Trackers, tracker_of


def fit_folder(
    options: FitOptions, store: FeatureStore, schedule: Schedule, world: World
) -> RunFolder:
    """Where a fit's files go.

    Raises:
        StoreError: the store lacks a shard.
        GmmpipeError: a tracker is wanted, and not installed.
    """
    world.on_first_rank(lambda: _check(options, store))
    identity = options.identity(store, schedule)
    return RunFolder(
        options,
        FIT_FILES,
        write=lambda path, state: write_model(path, state.to_dict(identity, store.features)),
        identity=identity,
        claimed_as=(
            [identity, options.target_frames, options.eval_data_dir],
            f"gmmpipe fit, K {options.K}, seed {options.seed}",
        ),
        world=world,
    )


def trackers_of(options: FitOptions, state: FitState | None, world: World) -> Trackers:
    """Where a fit's metrics go beside its folder, which one rank sees to.

    Raises:
        GmmpipeError: a tracker cannot begin, on whatever rank.
    """
    kinds = options.trackers if world.rank == 0 else []
    frames, config = (state.frames if state else 0), yaml.safe_load(options.to_yaml())
    return world.on_each_rank(
        lambda: Trackers(kinds, options.output_dir, frames, config, resumed=state is not None)
    )


def _check(options: FitOptions, store: FeatureStore) -> None:
    store.check_files()
    for kind in options.trackers:
        tracker_of(kind)  # or say now that it is missing
