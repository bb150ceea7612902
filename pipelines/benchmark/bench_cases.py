"""What bench.py runs: the scripts of this folder with their arguments."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """A run of a script.

    Args:
        name: the case's, and the script's without ``.py`` unless `script` says another.
        arguments: of the script. ``{corpus}`` is the manifests, ``{store}`` their feature store
            with waveforms, ``{gmm}`` a mixture that was fitted to it, ``{labels}`` its labels,
            ``{folder}`` a folder that an interrupted case finds again, and ``{fresh}`` one that
            does not exist.
        quick: further arguments for a trial of some seconds.
        script: the script's name, where it is not the case's.
    """

    name: str
    arguments: str = ""
    quick: str = ""
    script: str = ""

    @property
    def file(self) -> str:
        """The script's file in this folder."""
        return f"{self.script or self.name}.py"


CORPUS = "--data_dir {corpus}"
CASES = (
    Case("quality", f"{CORPUS} --work_dir {{folder}}", "--num_components 16 --seeds 0"),
    Case("kmeans", "--data_dir {store}", "--K 16 --seeds 0"),
    Case("fit_step", quick="--num_components 64 --frames 1024 --runs 1"),
    Case(
        "fit_step_768",
        "--num_components 512 --dim 768",
        "--num_components 16 --frames 512 --runs 1",
        script="fit_step",
    ),
    Case("block_sizes", quick="--dims 39 --num_components 64 --blocks 256,1024 --runs 1"),
    Case("ranks", CORPUS, "--frames 1024 --launches 1 --num_components 16 --target_frames 20k"),
    Case("memory", CORPUS, "--num_components 16 --batch_update_size 8000 --copies 3"),
    Case("featurize", CORPUS, "--runs 1 --files 20"),
    Case("featurize_workers", CORPUS, "--runs 1 --copies 12 --long_seconds 60"),
    Case("frame_kinds", "--store {store}", "--utterances 20 --runs 1"),
    Case("reading", CORPUS, "--copies 1 --runs 1"),
    Case("recordings", CORPUS, "--hours 0.02 --runs 1"),
    Case("recordings_fit", CORPUS, "--minutes 0.3 --seeds 1 --K 8"),
    Case(
        "jepa_batches",
        "--data_dir {store} --gmm_path {gmm} --labels {labels} --max_seconds 120",
        "--max_seconds 30 --runs 1",
    ),
    Case("jepa_targets", "--data_dir {store} --gmm_path {gmm} --labels {labels}"),
    Case("large_store", f"{CORPUS} --folder {{fresh}}", "--num_shards 50 --utterances 16 --runs 1"),
    Case("step_counts", quick="--K 64 --dim 8"),
    Case("tf32", "--data_dir {store}", "--K 16 --steps 5 --frames 4000"),
    Case("returned_values", "--data_dir {store} --gmm_path {gmm}", "--frames 2000"),
    Case("large_manifest", quick="--lines 20000 --recordings 100 --num_tasks 10"),
)
FIT = "--K 1024 --target_frames 200k --optimizer em --n_sgd_steps 10 --sgd_batch_size 32768"
QUICK_FIT = "--K 16 --target_frames 8k --batch_update_size 8k --n_sgd_steps 20"
"""Options of the fit that gives ``{gmm}``."""
