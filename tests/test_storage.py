"""Files appear whole or not at all: under exceptions, SIGKILL, full disks and wrong folders."""

import os
import random
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from xbench import storage
from xbench.errors import StorageError
from xbench.storage import atomic, sha256, writable

WRITER = """
import sys
from pathlib import Path
from xbench.storage import atomic
path = Path(sys.argv[2])
print("ready", flush=True)
for i in range(1_000_000):
    with atomic(path) if sys.argv[1] == "atomic" else path.open("wb") as file:
        for _ in range(16):
            file.write(bytes([i % 256]) * (1 << 16))
"""


def fail(*_: object, **__: object) -> None:
    raise OSError(5, "Input/output error")


def write(path: Path, content: bytes) -> None:
    with atomic(path) as file:
        file.write(content)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(folder: Path, name: str, phrase: str) -> None:
    before = files(folder)
    with pytest.raises(StorageError, match=f"cannot write .*{name}: {phrase}; free space or choose") as caught:
        write(folder / name, b"x" * (1 << 20))
    assert caught.value.exit_code == 6 and files(folder) == before


def test_a_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / f"{'é' * 120}.bin"
    with atomic(path) as file:
        file.write(b"one")
        file.flush()
        (name,) = files(tmp_path)
        assert not path.exists() and name.startswith(".") and name.endswith(".tmp")
    assert files(tmp_path) == {path.name: b"one"}
    with atomic(path) as file, atomic(path) as other:  # two writers never mix
        file.write(b"two")
        other.write(b"three")
    assert files(tmp_path) == {path.name: b"two"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_nothing_appears_when_the_block_raises(error: type[BaseException], tmp_path: Path) -> None:
    write(tmp_path / "old", b"old")
    for name in ("old", "new"):
        with pytest.raises(error), atomic(tmp_path / name) as file:
            file.write(b"x" * 100_000)
            raise error
    assert files(tmp_path) == {"old": b"old"}


@pytest.mark.parametrize("step", ["fsync", "chmod", "replace"])
def test_nothing_appears_when_a_step_fails(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "file", b"old")
    monkeypatch.setattr(storage.os, step, fail)
    refused(tmp_path, "file", "Input/output error")


def test_bytes_are_synced_before_the_name_and_the_name_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(storage.os, "fsync", lambda n: (calls.append(os.fstat(n)[stat.ST_INO :: 5]), fsync(n)))
    monkeypatch.setattr(storage.os, "replace", lambda *paths: (calls.append("replace"), replace(*paths)))
    write(tmp_path / "file", b"12345")  # number and size of each inode that is synced
    assert calls == [os.stat(tmp_path / "file")[stat.ST_INO :: 5], "replace", os.stat(tmp_path)[stat.ST_INO :: 5]]


@pytest.mark.parametrize(("how", "kills"), [("atomic", 20), ("in place", 6)])
def test_a_kill_at_any_moment_leaves_a_whole_file_or_none(how: str, kills: int, tmp_path: Path) -> None:
    moments, torn, environment = random.Random(7), 0, os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    for i in range(kills):
        command = [sys.executable, "-c", WRITER, how, str(tmp_path / str(i))]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None and process.stdout.readline() == b"ready\n"
            time.sleep(moments.uniform(0, 0.05))
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        content = files(tmp_path).get(str(i))
        torn += content is not None and (len(content) != 1 << 20 or len(set(content)) != 1)
    assert torn == 0 if how == "atomic" else torn > 0, "the second shows that the test can fail"


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


def test_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writable(tmp_path / "a" / "b")
    writable(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir() and files(tmp_path) == {}
    for folder in (tmp_path / "file", tmp_path / "file" / "deeper", Path("/proc/none")):
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(StorageError, match=f"cannot write {folder}: "):
            writable(folder)
    monkeypatch.setattr(storage.tempfile, "TemporaryFile", fail)
    with pytest.raises(StorageError, match=f"cannot write {tmp_path}: Input/output error"):
        writable(tmp_path)


def test_a_full_disk(tmp_path: Path) -> None:
    """A file system of 256 KiB where one can be mounted, else a limit on the size of files."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "xbench-test", str(tmp_path)]
    mounted = shutil.which("mount") and not subprocess.run(mount, capture_output=True, check=False).returncode
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        write(tmp_path / "file", b"old")
        if mounted:
            refused(tmp_path, "file", "No space left on device")
            (tmp_path / "filler").write_bytes(b"x" * 252 * 1024)
            with pytest.raises(StorageError, match="No space left on device"):
                write(tmp_path / "other", b"x")  # held back until the flush at the end
            assert set(files(tmp_path)) == {"file", "filler"}
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # Python ignores SIGXFSZ
            refused(tmp_path, "file", "File too large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        if mounted:
            subprocess.run(["umount", str(tmp_path)], check=True)


def test_sha256(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a" * 1_000_000)  # FIPS 180-2, appendix B.3
    assert sha256(path) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"
    for wrong in (tmp_path, tmp_path / "none", path / "x"):
        with pytest.raises(StorageError, match=f"cannot read {wrong}: "):
            sha256(wrong)
