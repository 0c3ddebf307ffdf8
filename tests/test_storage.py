"""Files appear whole or not at all: under exceptions, SIGKILL, full disks and wrong folders."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from xbench import storage
from xbench.errors import StorageError
from xbench.storage import atomic, sha256, writable

ROOT = Path(__file__).parent.parent
posix = pytest.mark.skipif(os.name != "posix", reason="POSIX only")
WRITER = """
import sys
from pathlib import Path
from xbench.storage import atomic
how, path, first, rounds, size = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:])
print("ready", flush=True)
for i in range(rounds):
    with atomic(path) if how == "atomic" else path.open("wb") as file:
        for _ in range(16):
            file.write(bytes([(first + i) % 256]) * (size // 16))
"""


def fail(*_: object, **__: object) -> None:
    raise OSError(5, "Input/output error")


def write(path: Path, content: bytes) -> None:
    with atomic(path) as file:
        file.write(content)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def refused(folder: Path, name: str, phrase: str) -> None:
    """Writing `name` gives the error, and every file in `folder` is as before."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(StorageError, match=f"cannot write .*{name}: {phrase}; free space or choose") as caught:
        write(folder / name, b"x" * (1 << 20))
    assert caught.value.exit_code == 6
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def writer(how: str, path: Path, first: int, rounds: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", WRITER, how, *map(str, (path, first, rounds, 1 << 20))]
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE)


def whole(path: Path) -> bool:
    content = path.read_bytes()
    return len(content) == 1 << 20 and len(set(content)) == 1


def test_a_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / f"{'é' * 120}.bin"
    with atomic(path) as file:
        file.write(b"one")
        file.flush()
        (name,) = files(tmp_path)
        assert not path.exists() and name.startswith(".") and name.endswith(".tmp")
    assert path.read_bytes() == b"one"
    write(path, b"two")
    assert path.read_bytes() == b"two" and len(files(tmp_path)) == 1


@pytest.mark.parametrize("old", [None, b"old"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_nothing_appears_when_the_block_raises(error: type[BaseException], old: bytes | None, tmp_path: Path) -> None:
    if old:
        (tmp_path / "file").write_bytes(old)
    with pytest.raises(error), atomic(tmp_path / "file") as file:
        file.write(b"x" * 100_000)
        raise error
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [old] * bool(old)


@pytest.mark.parametrize("step", ["fsync", "chmod", "replace"])
def test_nothing_appears_when_a_step_fails(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "file", b"old")
    monkeypatch.setattr(storage.os, step, fail)
    refused(tmp_path, "file", "Input/output error")


@posix
def test_bytes_are_synced_before_the_name_and_the_name_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(storage.os, "fsync", lambda n: (calls.append(os.fstat(n)), fsync(n)))
    monkeypatch.setattr(storage.os, "replace", lambda *paths: (calls.append("replace"), replace(*paths)))
    write(tmp_path / "file", b"12345")
    synced, name, folder = calls
    assert isinstance(synced, os.stat_result) and synced.st_size == 5 and name == "replace"
    assert isinstance(folder, os.stat_result) and folder.st_ino == tmp_path.stat().st_ino


@posix
@pytest.mark.parametrize(("how", "kills"), [("atomic", 20), ("in place", 6)])
def test_a_kill_at_any_moment_leaves_a_whole_file_or_none(how: str, kills: int, tmp_path: Path) -> None:
    moments, torn = random.Random(7), 0
    for i in range(kills):
        with writer(how, tmp_path / str(i), 0, 1_000_000) as process:
            assert process.stdout is not None and process.stdout.readline() == b"ready\n"
            time.sleep(moments.uniform(0, 0.05))
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        torn += (tmp_path / str(i)).exists() and not whole(tmp_path / str(i))
    assert torn == 0 if how == "atomic" else torn > 0, "the second shows that the test can fail"


def test_eight_writers_do_not_mix(tmp_path: Path) -> None:
    writers = [writer("atomic", tmp_path / "file", 10 * n, 4) for n in range(8)]
    for process in writers:
        with process:
            assert process.wait() == 0
    assert files(tmp_path) == {"file"} and whole(tmp_path / "file")
    assert (tmp_path / "file").read_bytes()[0] % 10 == 3


@posix
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002, 0o027])
def test_permissions_follow_the_umask(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write(tmp_path / "file", b"")
        assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~umask
    finally:
        assert os.umask(before) == umask, "changed by writing"


def test_places_where_no_file_can_be(tmp_path: Path) -> None:
    write(tmp_path / "file", b"old")
    (tmp_path / "folder" / "within").mkdir(parents=True)
    for path in ("file/x", "file/deeper/x", "folder", "x" * 300):
        refused(tmp_path, path, ".*")
    with pytest.raises(StorageError, match="cannot write /proc/none/x: "):
        write(Path("/proc/none/x"), b"")


def test_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writable(tmp_path / "a" / "b")
    writable(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir() and files(tmp_path) == set()
    for folder in (tmp_path / "file", tmp_path / "file" / "deeper", Path("/proc/none")):
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(StorageError, match=f"cannot write {folder}: "):
            writable(folder)
    monkeypatch.setattr(storage.tempfile, "TemporaryFile", fail)
    with pytest.raises(StorageError, match=f"cannot write {tmp_path}: Input/output error"):
        writable(tmp_path)


def test_a_full_disk(tmp_path: Path) -> None:
    """On a file system of 256 KiB, where one can be mounted."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "xbench-test", str(tmp_path)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a small file system here")
    try:
        write(tmp_path / "file", b"old")
        refused(tmp_path, "file", "No space left on device")
        (tmp_path / "filler").write_bytes(b"x" * 252 * 1024)
        with pytest.raises(StorageError, match="No space left on device"):
            write(tmp_path / "other", b"x")  # held back until the flush at the end
        assert files(tmp_path) == {"file", "filler"}
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@posix
def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    write(tmp_path / "file", b"old")
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        refused(tmp_path, "file", "File too large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


def test_sha256(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a" * 1_000_000)  # FIPS 180-2, appendix B.3
    assert sha256(path) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"
    for wrong in (tmp_path, tmp_path / "none", path / "x"):
        with pytest.raises(StorageError, match=f"cannot read {wrong}: "):
            sha256(wrong)
