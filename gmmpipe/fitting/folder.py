"""The output folder of a fit."""

from gmmpipe.fitting.checkpoint import FIT_FILES
from gmmpipe.fitting.event_files import load_writer
from gmmpipe.fitting.options import FitOptions
from gmmpipe.fitting.schedule import Schedule
from gmmpipe.mixture.model_file import write_model
from gmmpipe.run.run_folder import RunFolder
from gmmpipe.run.world import World
from gmmpipe.store.feature_store import FeatureStore


def fit_folder(
    options: FitOptions, store: FeatureStore, schedule: Schedule, world: World
) -> RunFolder:
    """Where a fit's files go.

    Raises:
        StoreError: the store lacks a shard.
        GmmpipeError: tensorboard is wanted, and not installed.
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


def _check(options: FitOptions, store: FeatureStore) -> None:
    store.check_files()
    if options.tensorboard:
        load_writer()  # or say now that it is missing
