"""Under what conditions bench.py measures: the code, the machine, the packages and the corpus."""

import hashlib
import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gmmpipe import __version__
from gmmpipe.featurization.plan import digest_manifests
from gmmpipe.sources.find import find_manifests

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = (
    *("torch", "torchaudio", "numpy", "soundfile", "webdataset", "scikit-learn", "faiss-cpu"),
    *("lhotse", "pomegranate", "torchgmm"),
)


def conditions(data_dir: str) -> dict[str, Any]:
    """All that makes figures comparable.

    Raises:
        ManifestError: the corpus cannot be read.
    """
    digest, lines = digest_manifests(find_manifests(data_dir))
    return {
        "gmmpipe": __version__,
        "commit": commit(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "gpu": printed("nvidia-smi", "--query-gpu=name", "--format=csv,noheader") or None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := version_of(name))},
        "corpus": {"utterances": lines, "sha256": digest},
    }


def commit() -> str | None:
    """The checkout's commit and, where files differ from it, a digest of how."""
    name = printed("git", "-C", str(ROOT), "rev-parse", "--short=10", "HEAD")
    changes = printed("git", "-C", str(ROOT), "diff", "HEAD", "--", "gmmpipe", "pipelines")
    return f"{name}+{hashlib.sha256(changes.encode()).hexdigest()[:8]}" if changes else name or None


def processor() -> str:
    """The processor's name."""
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def version_of(package: str) -> str | None:
    """The version that is installed, if any."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def printed(*command: str) -> str:
    """What a command prints; nothing where it fails or is not there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
