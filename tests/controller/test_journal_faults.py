"""What can go wrong with a journal: it is said clearly, and never takes the run with it."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from journal_words import decision, sample, started

from midcourse.controller.journal import Journal, JournalError, JournalReader
from midcourse.controller.journal.place import network_file_system
from midcourse.controller.journal.tables import APPLICATION_ID

HERE = Path(__file__).parent

WRITES_FOR_EVER = """
import sys; sys.path.insert(0, sys.argv[2])
from itertools import count
from journal_words import decision, sample, started
journal = started(sys.argv[1])
for tick in count():
    journal.sample(sample(tick))
    if tick % 3 == 0:
        journal.decision(decision(tick))
        print(f"off-course@{tick}", flush=True)
"""


@pytest.mark.parametrize("seed", range(4))
def test_a_killed_run_leaves_every_decision_that_had_returned(tmp_path: Path, seed: int) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITES_FOR_EVER, str(tmp_path), str(HERE)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    returned = [writer.stdout.readline().strip()]
    time.sleep(random.Random(seed).uniform(0, 0.4))
    writer.send_signal(signal.SIGKILL)
    returned += writer.stdout.read().split()
    writer.wait()

    for journal_of in (tmp_path, shutil.copytree(tmp_path, tmp_path / "copy")):
        with JournalReader(journal_of) as reader:
            found = [item.id for item in reader.decisions()]
            assert found[: len(returned)] == returned
            assert not reader.running
            assert reader.attempts()[0].ended is None
            # All that was buffered before the last decision is there with it.
            ticks = [s.tick for s in reader.samples()]
            assert ticks == list(range(len(ticks)))
            assert len(ticks) > int(returned[-1].partition("@")[2])

    journal = started(tmp_path)  # a dead writer's lock blocks nobody
    journal.close()
    with JournalReader(tmp_path) as reader:
        assert [life.number for life in reader.attempts()] == [1, 2]


def test_a_second_writer_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    first = started(tmp_path)
    with pytest.raises(JournalError, match=f"another run is writing.*process {os.getpid()}"):
        Journal.open(tmp_path)
    with JournalReader(tmp_path) as reader:
        assert reader.running
    first.close()
    with JournalReader(tmp_path) as reader:
        assert not reader.running
    started(tmp_path).close()


def test_a_forked_worker_neither_writes_nor_holds_the_lock(tmp_path: Path) -> None:
    journal = started(tmp_path)
    child = os.fork()
    if child == 0:
        refused = False
        journal.sample(sample(1))
        try:
            journal.flush()
        except JournalError:
            refused = not journal.writable
        journal.close()
        time.sleep(3)
        os._exit(0 if refused else 1)
    journal.decision(decision(1))
    journal.close()
    started(tmp_path).close()  # while the child still lives
    assert os.waitpid(child, 0)[1] == 0
    with JournalReader(tmp_path) as reader:
        assert len(reader.decisions()) == 1
        assert list(reader.samples()) == []


def test_a_deleted_file_ends_the_journal_and_not_the_run(tmp_path: Path) -> None:
    journal = started(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    journal.sample(sample(1))
    with pytest.raises(JournalError, match="cannot be written"):
        journal.decision(decision(1))
    assert not journal.writable
    journal.sample(sample(2))
    with pytest.raises(JournalError):
        journal.event("error", 2, {})
    journal.close()


FILLS_UP = """
import resource, sys; sys.path.insert(0, sys.argv[2])
from journal_words import decision, sample, started
from midcourse.controller.journal import JournalError
journal = started(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
for tick in range(100_000):
    journal.sample(sample(tick))
    if tick % 500 == 0:
        try:
            journal.decision(decision(tick))
        except JournalError as error:
            print("refused", journal.writable, tick)
            break
for tick in range(200_000):
    journal.sample(sample(tick))
journal.close()
"""


def test_a_full_disk_ends_the_journal_and_what_was_written_stays(tmp_path: Path) -> None:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", FILLS_UP, str(tmp_path), str(HERE)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert time.monotonic() - began < 30
    word, writable, tick = done.stdout.split()
    assert (word, writable) == ("refused", "False")
    with JournalReader(tmp_path) as reader:
        assert [item.tick for item in reader.decisions()] == list(range(0, int(tick), 500))


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(JournalError, match="cannot be written"):
        Journal.open(tmp_path / "file" / "run")
    with pytest.raises(JournalError, match="cannot be written"):
        Journal.open("/proc/nowhere")


def test_foreign_damaged_and_newer_files_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.sqlite"
    text.write_text("not a database at all, but long enough to be looked at " * 20)
    foreign = tmp_path / "foreign.sqlite"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    newer = tmp_path / "newer.sqlite"
    with sqlite3.connect(newer) as connection:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("PRAGMA user_version = 99")
        connection.execute("CREATE TABLE attempt (x)")
    for file, why in ((text, "not a database"), (foreign, "not a journal"), (newer, "newer Midcourse.*99")):
        content = file.read_bytes()
        for attempt in (Journal.open, JournalReader):
            with pytest.raises(JournalError, match=why):
                attempt(file)
        assert file.read_bytes() == content
    with pytest.raises(JournalError, match="there is no journal"):
        JournalReader(tmp_path / "missing")


MOUNTS = r"""
/dev/sda1 / ext4 rw 0 0
server:/far /nets nfs4 rw 0 0
/dev/sdb1 /nets/me/scratch xfs rw 0 0
scratch /lus\040tre lustre rw 0 0
me@host: /far fuse.sshfs rw 0 0
overlay /near fuse.fuse-overlayfs rw 0 0
//box/share /share cifs rw 0 0
broken
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/local/run", None),
        ("/nets/me/run", "nfs4"),
        ("/nets/me/scratch/run", None),
        ("/network/run", None),
        ("/lus tre/run", "lustre"),
        ("/far/run", "fuse.sshfs"),
        ("/near/run", None),
        ("/share", "cifs"),
    ],
)
def test_network_file_systems_are_known(tmp_path: Path, path: str, kind: str | None) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS)
    assert network_file_system(Path(path), mounts) == kind
    assert network_file_system(Path(path), tmp_path / "missing") is None


def test_a_network_file_system_gets_a_rollback_journal_and_a_warning(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"server:/x {tmp_path} nfs4 rw 0 0\n")
    run = tmp_path / "run"
    local = started(run)
    local.decision(decision(0))
    assert local.warnings == ()
    local.close()

    journal = started(run, mounts=mounts)  # also where the file was begun in the other mode
    [warning] = journal.warnings
    assert "nfs4" in warning
    journal.sample(sample(1))
    journal.decision(decision(1))
    assert not (run / "journal.sqlite-wal").exists()
    with JournalReader(run) as reader:
        assert [item.tick for item in reader.decisions()] == [0, 1]
        journal.decision(decision(2))  # a reader does not hold it up
        assert [item.tick for item in reader.decisions()] == [0, 1, 2]
    journal.close()


def test_a_reader_sees_the_run_go_on_and_leaves_no_trace(tmp_path: Path) -> None:
    journal = started(tmp_path)
    with JournalReader(tmp_path) as reader:
        for tick in range(3):
            journal.sample(sample(tick))
            journal.decision(decision(tick))
            assert [item.tick for item in reader.decisions()] == list(range(tick + 1))
            assert [item.tick for item in reader.samples()] == list(range(tick + 1))
    journal.close()
    files = sorted(path.name for path in tmp_path.iterdir())
    copy = shutil.copy(tmp_path / "journal.sqlite", tmp_path / "copy.sqlite")
    with JournalReader(tmp_path) as reader, JournalReader(copy) as of_copy:
        assert reader.decisions() == of_copy.decisions()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*files, "copy.sqlite"])


def test_a_reader_works_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = started(tmp_path)
    journal.decision(decision(1))
    real = sqlite3.connect

    def refuses_read_only(database: object, **options: object) -> sqlite3.Connection:
        if "mode=ro" in str(database):  # as SQLite does where it cannot make the log's index
            raise sqlite3.OperationalError("unable to open database file")
        return real(database, **options)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(sqlite3, "connect", refuses_read_only)
    with JournalReader(tmp_path) as reader:
        assert [item.tick for item in reader.decisions()] == [1]
    journal.close()
