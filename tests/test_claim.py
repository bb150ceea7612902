import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gmmpipe.claim import CLAIM_PREFIX, claim_folder, tidy_finished
from gmmpipe.errors import ClaimError
from gmmpipe.files import canonical_json, temporary_path
from gmmpipe.holder import Holder, is_dead
from helpers.processes import ROOT

HOLD = """
import sys
from pathlib import Path
from gmmpipe.claim import claim_folder
alone = len(sys.argv) > 3
with claim_folder(Path(sys.argv[1]), sys.argv[2], "gmmpipe test", alone=alone):
    print("held", flush=True)
    sys.stdin.read()
"""


class Holding:
    """Another process that holds a folder until it is told to leave."""

    def __init__(self, folder: Path, identity: str, *, alone: bool = False) -> None:
        command = [sys.executable, "-c", HOLD, str(folder), identity, *["alone"] * alone]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        assert self.process.stdout.readline() == "held\n"

    def __enter__(self) -> "Holding":
        return self

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def __exit__(self, *_: object) -> None:
        self.process.communicate()


def claims(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{CLAIM_PREFIX}*"))


def test_a_folder_is_free_again_behind_its_holder(tmp_path):
    with claim_folder(tmp_path / "out", "one", "a job") as claim:
        assert claim.is_alone()
        assert len(claims(tmp_path / "out")) == 1
    with claim_folder(tmp_path / "out", "two", "a job", alone=True):
        pass
    assert list((tmp_path / "out").iterdir()) == []


def test_processes_of_one_identity_work_together(tmp_path):
    with Holding(tmp_path, "one"), claim_folder(tmp_path, "one", "a job") as claim:
        assert not claim.is_alone()
    assert claims(tmp_path) == []


def test_what_another_may_be_writing_is_left_until_nobody_is_there(tmp_path):
    half = temporary_path(tmp_path / "half")
    half.touch()
    with claim_folder(tmp_path, "one", "a job") as claim:
        with Holding(tmp_path, "one"):
            claim.tidy()
            assert half.exists()
        claim.tidy()
        assert not half.exists()


def test_a_finished_folder_is_tidied_without_a_claim_where_that_is_allowed(tmp_path):
    temporary_path(tmp_path / "half").touch()
    with Holding(tmp_path, "one") as holding:
        tidy_finished(tmp_path)
        assert len(list(tmp_path.iterdir())) == 2
        holding.kill()
    tidy_finished(tmp_path)
    assert list(tmp_path.iterdir()) == []
    tidy_finished(tmp_path / "not there")


@pytest.mark.parametrize(("identity", "alone"), [("two", False), ("one", True)])
def test_another_one_is_refused_by_name(tmp_path, identity, alone):
    with Holding(tmp_path, "one") as holding:
        with (
            pytest.raises(ClaimError) as refused,
            claim_folder(tmp_path, identity, "a job", alone=alone),
        ):
            pass
        assert len(claims(tmp_path)) == 1, "the refused one leaves nothing"
    message = str(refused.value)
    assert (
        f"{tmp_path}: in use by process {holding.process.pid} on {os.uname().nodename}" in message
    )
    assert "since 20" in message
    assert "(gmmpipe test)" in message


def test_nobody_joins_one_that_must_be_alone(tmp_path):
    with (
        Holding(tmp_path, "one", alone=True),
        pytest.raises(ClaimError),
        claim_folder(tmp_path, "one", "a job"),
    ):
        pass
    with claim_folder(tmp_path, "one", "a job"):
        pass


def test_a_killed_holder_needs_nobodys_help(tmp_path):
    with Holding(tmp_path, "one") as holding:
        holding.kill()
        assert len(claims(tmp_path)) == 1
        with claim_folder(tmp_path, "two", "a job", alone=True) as claim:
            assert claim.is_alone()
    assert claims(tmp_path) == []


def test_a_fork_of_a_killed_holder_holds_nothing(tmp_path):
    """As a loader process, which sees only after a while that nobody wants its batches."""
    # The fork says when it has returned: it has given the lock up by then.
    fork = "import os; os.fork() or print('forked', flush=True); sys.stdin.read()"
    script = HOLD.replace("sys.stdin.read()", fork)
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path), "one"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    ) as holder:  # fmt: skip
        assert holder.stdout.readline() == "held\n"
        assert holder.stdout.readline() == "forked\n"
        with pytest.raises(ClaimError), claim_folder(tmp_path, "two", "a job"):
            pass
        holder.kill()
        holder.wait()
        with claim_folder(tmp_path, "two", "a job", alone=True) as claim:
            holder.stdin.close()
            assert holder.stdout.read() == ""  # the fork has ended, by its own will
            assert claim.is_alone()
            assert len(claims(tmp_path)) == 1, "it withdraws nobody's claim"


def test_the_claim_of_another_host_stands_until_a_person_deletes_it(tmp_path):
    path = tmp_path / f"{CLAIM_PREFIX}elsewhere-7-00000000"
    holder = {
        "host": "elsewhere", "pid": 7, "started": 1, "since": "2026-01-01T00:00:00+00:00",
        "what": "gmmpipe fit", "identity": "one",
    }  # fmt: skip
    path.write_text(canonical_json(holder))
    with pytest.raises(ClaimError, match=f"delete {path}"), claim_folder(tmp_path, "two", "a job"):
        pass
    with claim_folder(tmp_path, "one", "a job"):
        pass
    path.unlink()
    with claim_folder(tmp_path, "two", "a job"):
        pass


def rewrite(path: Path, **changes: object) -> None:
    """Change what a claim says; its lock stays."""
    path.write_text(canonical_json({**json.loads(path.read_text()), **changes}))


def test_of_another_container_on_the_same_kernel_the_lock_tells(tmp_path):
    with Holding(tmp_path, "one") as holding:
        (path,) = claims(tmp_path)
        rewrite(path, host="another-container", pid=7)
        with pytest.raises(ClaimError, match="another-container"), claim_folder(tmp_path, "2", ""):
            pass
        holding.kill()
        with claim_folder(tmp_path, "two", "a job", alone=True):
            assert path not in claims(tmp_path)


@pytest.mark.parametrize("boot", ["", "0ac1e4c5-0000-0000-0000-000000000000"])
def test_without_the_same_kernel_another_host_is_not_known_to_be_dead(tmp_path, boot):
    with Holding(tmp_path, "one") as holding:
        rewrite(claims(tmp_path)[0], host="elsewhere", boot=boot)
        holding.kill()
    with pytest.raises(ClaimError, match="on elsewhere"), claim_folder(tmp_path, "two", "a job"):
        pass


def test_a_claim_of_another_version_is_read(tmp_path):
    with Holding(tmp_path, "one"):
        (path,) = claims(tmp_path)
        values = json.loads(path.read_text())
        del values["boot"]
        path.write_text(canonical_json({**values, "queue": "night"}))
        with claim_folder(tmp_path, "one", "a job"):
            pass
        with pytest.raises(ClaimError, match="gmmpipe test"), claim_folder(tmp_path, "two", ""):
            pass
        rewrite(path, pid="many")
        with pytest.raises(ClaimError, match="cannot be read"), claim_folder(tmp_path, "one", ""):
            pass


def test_where_nothing_can_be_locked_a_process_is_looked_for(tmp_path):
    with Holding(tmp_path, "one") as holding:
        holder = Holder(**json.loads(claims(tmp_path)[0].read_text()))
        unknown, later = replace(holder, started=0), replace(holder, started=holder.started - 1)
        assert [is_dead(None, h) for h in (holder, unknown, later)] == [False, False, True]
        holding.kill()
        assert [is_dead(None, h) for h in (holder, unknown, later)] == [True, True, True]


def test_what_merely_begins_like_ours_is_left_alone(tmp_path):
    (tmp_path / ".claim-notes").mkdir()
    (tmp_path / ".claim-host-1-0123abcd").mkdir()
    for name in (".claim-of-mine", ".tmp-notes", ".tmp-host-1-2-notes"):
        (tmp_path / name).write_text("mine")
    before = sorted(tmp_path.iterdir())
    with claim_folder(tmp_path, "one", "a job", alone=True) as claim:
        assert claim.is_alone()
    assert sorted(tmp_path.iterdir()) == before


def test_the_last_one_out_removes_what_killed_ones_left_half_written(tmp_path):
    leftover = temporary_path(tmp_path / "shard-000000.tar")
    leftover.write_bytes(b"half")
    with Holding(tmp_path, "one"):
        with claim_folder(tmp_path, "one", "a job"):
            pass
        assert leftover.exists(), "the other one may be writing it"
    assert not leftover.exists()


def test_of_many_that_start_at_once_one_goes_on(tmp_path):
    script = HOLD.replace("sys.stdin.read()", "import time; time.sleep(3)")
    running = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path), str(n)],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT,
        )
        for n in range(4)
    ]  # fmt: skip
    held = [process.communicate()[0] for process in running]
    assert sorted(held) == ["", "", "", "held\n"]
    assert sorted(process.returncode for process in running) == [0, 1, 1, 1]


def test_a_stopped_process_is_a_living_one(tmp_path):
    with Holding(tmp_path, "one") as holding:
        holding.process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(ClaimError), claim_folder(tmp_path, "two", "a job"):
                pass
        finally:
            holding.process.send_signal(signal.SIGCONT)
