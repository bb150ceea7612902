"""How the ranks of a job meet, and connect to each other."""

import itertools
import os
import re
from datetime import timedelta

import torch.distributed as dist

from gmmpipe.errors import RankError
from gmmpipe.run.roll_call import RollCall

_meetings = itertools.count()


def join_ranks(
    rank: int,
    size: int,
    device_type: str,
    timeout: float,
    meeting_timeout: float,
    exchange_timeout: float,
) -> tuple[RollCall, dist.ProcessGroup, dist.ProcessGroup | None]:
    """Meet the other ranks and connect to them. No signal handler runs in a thread that does.

    Args:
        rank, size: of this process, and W.
        device_type: ``cuda`` or ``cpu``, which decides between NCCL and gloo.
        timeout: seconds to wait for the others to join.
        meeting_timeout, exchange_timeout: time limits of the two groups, seconds.

    Returns:
        Who is there; the group for exchanges to which all come at about the same time; and, of
        GPUs, the one for exchanges that no host waits for. The group of all else is torch's own.

    Raises:
        RankError: the host does not answer, or some rank did not join.
    """
    # Otherwise a failed collective of NCCL ends the process before a checkpoint can be written. So
    # torch's documentation says; it has not been run on several GPUs.
    os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # by torchrun itself
    host = f"{'torchrun' if hosted else 'rank 0'} at {address}:{port}"
    try:
        store = dist.TCPStore(  # type: ignore[attr-defined]
            address,
            port,
            size,
            is_master=rank == 0 and not hosted,
            timeout=timedelta(seconds=timeout),
            wait_for_workers=False,
            multi_tenant=True,
        )
    except RuntimeError as error:
        raise RankError(f"{host} does not answer ({first_sentence(error)})") from error
    # torchrun may keep one store over its restarts, with the words of ranks that are dead, and this
    # process may join several times.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    words = dist.PrefixStore(f"gmmpipe-{attempt}-{next(_meetings)}", store)  # type: ignore[attr-defined]
    roll = RollCall(words, rank, size, host)
    missing = roll.call("joined", size, timeout)
    if missing:
        raise RankError(
            f"{len(missing)} of {size} ranks did not join within {timeout:.0f} s: "
            f"{', '.join(map(str, missing))}"
        )
    dist.init_process_group(
        "nccl" if device_type == "cuda" else "gloo",
        store=words,
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=meeting_timeout),
    )
    short = dist.new_group(timeout=timedelta(seconds=exchange_timeout))
    assert isinstance(short, dist.ProcessGroup), "this process is one of the ranks"
    return roll, short, _unwatched_group() if device_type == "cuda" else None


def _unwatched_group() -> dist.ProcessGroup:
    """A group of NCCL whose exchanges no host waits for, and that no thread of torch breaks off.

    torch reads both from the environment when it makes a group.
    """
    names = ("TORCH_NCCL_BLOCKING_WAIT", "TORCH_NCCL_ASYNC_ERROR_HANDLING")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "0"))
    try:
        group = dist.new_group()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    assert isinstance(group, dist.ProcessGroup), "this process is one of the ranks"
    return group


def first_sentence(error: RuntimeError) -> str:
    """The first sentence of an error of torch's or gloo's, without the place in its source."""
    text = re.sub(r"^(\[[^]]*\] )+", "", " ".join(str(error).split()))
    return text.split(". ")[0]
