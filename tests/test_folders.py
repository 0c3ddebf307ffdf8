"""Folders on a disk and at a URL: files whole or not at all, the same bytes, errors of one line."""

import hashlib
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import corpora
import fsspec
import numpy as np
import pytest
import servers
from test_encode import Counting
from test_shards import corpus, encode_corpus, files_of

from xbench.errors import IntegrityError, StorageError, UsageError
from xbench.folders import Folder, LocalFolder, RemoteFolder, describe, open_folder

# More than fsspec sends at once, so that a part of the file has been sent when the rest fails.
BIG = bytes(range(256)) * 1000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The URL of an FTP server, and what it serves."""
    root = tmp_path_factory.mktemp("ftp")
    with servers.ftp(root) as url:
        yield url, root


@pytest.fixture(params=["local", "ftp"])
def place(request: pytest.FixtureRequest, server: tuple[str, Path], tmp_path: Path) -> tuple[Folder, Path]:
    """A folder that is not there yet, and where it is on this disk."""
    if request.param == "local":
        return LocalFolder(tmp_path / "own"), tmp_path / "own"
    url, root = server
    return RemoteFolder(f"{url}/{tmp_path.name}"), root / tmp_path.name


def leftovers(server: tuple[str, Path]) -> list[str]:
    return os.listdir(server[1] / "tmp")


def test_what_is_written_is_read(place: tuple[Folder, Path], server: tuple[str, Path]) -> None:
    folder, path = place
    assert folder.names() == set()  # and none is made by looking
    assert not path.exists()
    folder.write("a.bin", [BIG, memoryview(BIG)[1:7], b""])
    folder.write("ünï ç.json", [b"{}"])
    folder.write("empty", [])
    (folder / "sub" / "deep").write("b", [b"b"])
    assert {p.name: p.read_bytes() for p in path.iterdir() if p.is_file()} == {
        "a.bin": BIG + BIG[1:7],
        "ünï ç.json": b"{}",
        "empty": b"",
    }
    assert (path / "sub" / "deep" / "b").read_bytes() == b"b"
    assert folder.names() == {"a.bin", "ünï ç.json", "empty"}  # files alone
    for name in folder.names():
        expected = (path / name).read_bytes()
        found = folder.read(name)
        assert (found.dtype, type(found), found.tobytes()) == (np.uint8, np.ndarray, expected)
        assert not found.flags.writeable or not found.size
        assert folder.sha256(name) == hashlib.sha256(expected).hexdigest()
    folder.write("a.bin", [b"other"])  # in place of the first
    assert folder.read("a.bin").tobytes() == b"other"
    assert leftovers(server) == []


@pytest.mark.parametrize("kind", [KeyboardInterrupt, StorageError])
def test_a_write_that_fails_leaves_nothing(
    place: tuple[Folder, Path], kind: type[BaseException], server: tuple[str, Path]
) -> None:
    folder, path = place

    def parts() -> Iterator[bytes]:
        yield BIG
        raise kind("in between")

    folder.write("there", [b"before"])
    for name in ("new", "there"):
        with pytest.raises(kind, match="in between"):
            folder.write(name, parts())  # type: ignore[arg-type]
    assert files_of(path) == {"there": b"before"} and folder.names() == {"there"}
    assert leftovers(server) == [] and len(os.listdir(path)) == 1


def test_a_writer_that_is_killed_leaves_nothing_under_the_name(place: tuple[Folder, Path]) -> None:
    folder, path = place
    program = (
        "import os, pickle, sys\nfolder = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
        "def parts():\n    yield bytes(300_000)\n    os._exit(9)\nfolder.write('x', parts())\n"
    )
    done = subprocess.run([sys.executable, "-c", program, pickle.dumps(folder).hex()], timeout=60)
    assert done.returncode == 9
    assert folder.names() == set()
    folder.write("x", [b"whole"])
    assert folder.names() == {"x"} and folder.read("x").tobytes() == b"whole"
    assert (path / "x").read_bytes() == b"whole"


def test_what_is_not_there_is_one_line(place: tuple[Folder, Path]) -> None:
    folder, _ = place
    folder.write("a", [b"a"])
    for ask in (folder.read, folder.sha256):
        with pytest.raises(StorageError, match=r"cannot read .*/nobody") as caught:
            ask("nobody")
        assert caught.value.args[0].startswith(f"cannot read {folder.where('nobody')}: ")
        assert "\n" not in str(caught.value)


def test_where_nothing_can_be_written(place: tuple[Folder, Path], server: tuple[str, Path]) -> None:
    """A file stands where the folder would be; a server without a place for temporary files."""
    folder, _ = place
    folder.write("a", [b"a"])
    with pytest.raises(StorageError, match="cannot write ") as caught:
        (folder / "a").write("b", [b"b"])
    assert "\n" not in str(caught.value)
    if isinstance(folder, RemoteFolder):
        (server[1] / "tmp").rename(server[1] / "elsewhere")
        try:
            with pytest.raises(StorageError, match="cannot write .*the same command goes on"):
                folder.write("b", [BIG])
        finally:
            (server[1] / "elsewhere").rename(server[1] / "tmp")
        assert folder.names() == {"a"}


def test_a_server_that_is_gone(tmp_path: Path) -> None:
    with servers.ftp(tmp_path / "root") as url:
        folder = open_folder(f"{url}/a")
        folder.write("x", [b"x"])
    for act in (folder.names, lambda: folder.read("x"), lambda: folder.sha256("x"), lambda: folder.write("y", [])):
        with pytest.raises(StorageError, match=rf"cannot (read|write) {url}/a") as caught:
            act()
        assert "\n" not in str(caught.value) and "goes on" in str(caught.value)


def test_how_a_folder_is_spelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    own = LocalFolder(tmp_path / "a")
    for where in (tmp_path / "a", Path("a"), "a", "a/", "~/a", f"file://{tmp_path}/a", f"local://{tmp_path}/a/"):
        assert open_folder(where) == own, where
    assert open_folder("file://a") == own  # a worker is in another folder
    assert open_folder("ftp://host/a/") == RemoteFolder("ftp://host/a") == open_folder("ftp://host/a")
    assert open_folder("ftp://host/a") != open_folder("ftp://host/b") and open_folder("ftp://host/a") != own
    for folder in (own, open_folder("ftp://host/a")):
        assert pickle.loads(pickle.dumps(folder)) == folder == (folder / "b" / "c").__class__(*vars(folder).values())
        assert {folder: 1}[pickle.loads(pickle.dumps(folder))] == 1
        assert (folder / "b" / "c").where("d") == f"{folder.where('b')}/c/d"


def test_protocols_that_cannot_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="nosuch://a: Protocol not known: nosuch"):
        open_folder("nosuch://a")
    monkeypatch.setitem(sys.modules, "s3fs", None)  # as where it is not installed
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(UsageError, match=r"s3://bucket/a: Install s3fs"):
        open_folder("s3://bucket/a")
    with pytest.raises(UsageError, match=r"s3://bucket/a: Install s3fs"):  # on a worker, which got it by pickle
        RemoteFolder("s3://bucket/a").names()


def test_listings_are_of_now(server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where fsspec keeps a file system with what it has listed, as it does with s3:// and most others."""
    url, root = server
    folder, path = RemoteFolder(f"{url}/{tmp_path.name}"), root / tmp_path.name
    folder.write("a", [b"a"])
    files, where = fsspec.url_to_fs(folder.url)
    monkeypatch.setattr(fsspec, "url_to_fs", lambda url: (files, where + url.removeprefix(folder.url)))
    assert folder.names() == {"a"}
    (path / "b").write_bytes(b"longer")  # by another machine
    assert folder.sha256("b") == hashlib.sha256(b"longer").hexdigest()
    (path / "c").write_bytes(b"c")
    assert folder.names() == {"a", "b", "c"}
    (path / "a").unlink()
    assert folder.names() == {"b", "c"}
    assert folder.sha256("b") == hashlib.sha256(b"longer").hexdigest()
    (path / "b").write_bytes(b"short")
    assert folder.sha256("b") == hashlib.sha256(b"short").hexdigest()


def test_whose_vectors_they_are(place: tuple[Folder, Path]) -> None:
    folder, path = place
    describe(folder, {"b": 1, "a": "ü"})
    expected = '{\n "a": "ü",\n "b": 1\n}\n'.encode()
    assert files_of(path) == {"model.json": expected}
    changed = (path / "model.json").stat().st_mtime_ns
    describe(folder, {"a": "ü", "b": 1})
    assert (path / "model.json").stat().st_mtime_ns == changed
    with pytest.raises(IntegrityError, match="describes another model") as caught:
        describe(folder, {"a": "ü"})
    assert str(caught.value).startswith(folder.where("model.json"))
    for damaged in (b"", expected[:-3], b"\xff" + expected):
        (path / "model.json").write_bytes(damaged)
        with pytest.raises(IntegrityError, match="model.json describes another model .* delete its folder"):
            describe(folder, {"b": 1, "a": "ü"})


def check_shards(remote: Folder, on_disk: Callable[[], dict[str, bytes]], change: "Change", tmp_path: Path) -> None:
    """The bytes of a local folder; what is there is kept, what is missing made again, damage named."""
    some = corpus(tmp_path)
    local = encode_corpus(Counting(), "a", some, LocalFolder(tmp_path / "c"), shard_rows=7)
    model = Counting()
    there = encode_corpus(model, "a", some, remote, shard_rows=7)
    expected = files_of(tmp_path / "c")
    assert on_disk() == expected and there.encoded == 37 and model.calls
    for one, other in zip(local.shards, there.shards, strict=True):
        assert one.matrix().tobytes() == other.matrix().tobytes() and one.matrix().shape == other.matrix().shape
        assert one.doc_ids() == other.doc_ids() and one.cut == other.cut
        if one.rows > 3:
            assert one.some_ids(np.array([3, 1])) == other.some_ids(np.array([3, 1]))
    model = Counting()
    assert encode_corpus(model, "a", some, remote, shard_rows=7) == (there.shards, 0) and model.calls == []
    first, second = there.shards[:2]

    for what in (second.card, second.files[second.vectors], second.files[second.ids]):
        lost = f"{second.folder.where(what)}".removeprefix(f"{remote.where('')}")
        change(lost, None)
        assert on_disk() != expected
        model = Counting()
        assert encode_corpus(model, "a", some, remote, shard_rows=7) == (there.shards, 7)
        assert on_disk() == expected
    for what in (first.card, first.files[first.vectors], first.files[first.ids]):
        hit = f"{first.folder.where(what)}".removeprefix(f"{remote.where('')}")
        content = expected[hit]
        for damaged in (content[:-3] + bytes([content[-3] ^ 1]) + content[-2:], content[:-4], content + b" x"):
            change(hit, damaged)
            with pytest.raises(IntegrityError) as caught:
                encode_corpus(Counting(), "a", some, remote, shard_rows=7)
            assert remote.where(hit) in str(caught.value) and "\n" not in str(caught.value)
        change(hit, content)
    assert encode_corpus(Counting(), "a", some, remote, shard_rows=7) == (there.shards, 0)


Change = Callable[[str, bytes | None], None]


def test_shards_at_a_url(server: tuple[str, Path], tmp_path: Path) -> None:
    url, root = server
    path = root / tmp_path.name

    def change(name: str, content: bytes | None) -> None:
        if content is None:
            (path / name).unlink()
        else:
            (path / name).write_bytes(content)

    check_shards(open_folder(f"{url}/{tmp_path.name}"), lambda: files_of(path), change, tmp_path)


@pytest.mark.slow
def test_a_run_with_shards_at_a_url(server: tuple[str, Path], tmp_path: Path) -> None:
    """The same result, and nothing of the corpus in the cache."""
    url, root = server
    task = corpora.make(tmp_path, "made", {"en": [70, 40], "de": [30]}, queries=8)
    encoder = corpora.write_encoder(tmp_path / "cheap.py", 16, company=True)
    command = ["run", f"py:{encoder}:Cheap", "-t", str(task), "--data", str(tmp_path / "data"), "--shard-rows", "32"]
    here = servers.run(*command, "-o", "a", cwd=tmp_path, environment={"XBENCH_CACHE": str(tmp_path / "c1")})
    there = servers.run(
        *command,
        *("-o", "b", "--shards", f"{url}/{tmp_path.name}/shards"),
        cwd=tmp_path,
        environment={"XBENCH_CACHE": str(tmp_path / "c2")},
    )
    assert (here.returncode, there.returncode, here.stdout) == (0, 0, there.stdout), there.stderr.decode()
    assert results(tmp_path / "a") == results(tmp_path / "b")
    assert files_of(tmp_path / "c1" / "shards") == files_of(root / tmp_path.name / "shards")
    assert not (tmp_path / "c2" / "shards").exists()
    shutil.rmtree(root / tmp_path.name)


def results(folder: Path) -> dict[str, bytes]:
    """The files of a run but those of its times."""
    return {name: content for name, content in files_of(folder).items() if not name.endswith(".timing.json")}


@pytest.mark.slow
def test_the_protocol_of_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that speaks it (moto's): shards, then a whole run, the second time with nothing to encode."""
    s3fs = pytest.importorskip("s3fs", reason="NO S3FS: pip install s3fs 'moto[server]'")
    pytest.importorskip("moto.server", reason="NO MOTO: pip install s3fs 'moto[server]'")
    with servers.s3("bucket") as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        fsspec.config.set_conf_env(fsspec.config.conf)
        try:
            files = s3fs.S3FileSystem(endpoint_url=environment["FSSPEC_S3_ENDPOINT_URL"], use_listings_cache=False)

            def on_disk(root: str = "bucket/deep/shards") -> dict[str, bytes]:
                found = files.find(root, withdirs=False)
                return {str(path).removeprefix(root + "/"): files.cat_file(path) for path in found}

            def change(name: str, content: bytes | None) -> None:
                path = f"bucket/deep/shards/{name}"
                if content is None:
                    files.rm_file(path)
                else:
                    files.pipe_file(path, content)

            folder = open_folder("s3://bucket/deep/shards/")
            assert folder.names() == set()
            check_shards(folder, on_disk, change, tmp_path)
            written(folder, change)
        finally:
            fsspec.config.conf.pop("s3", None)
            s3fs.S3FileSystem.clear_instance_cache()
        task = corpora.make(tmp_path, "made", {"en": [70, 40], "de": [30]}, queries=8)
        seen = tmp_path / "seen"
        seen.mkdir()
        encoder = corpora.write_encoder(tmp_path / "cheap.py", 16, company=True, seen=str(seen))
        command = ["run", f"py:{encoder}:Cheap", "-t", str(task), "--data", str(tmp_path / "data")]
        command += ["--shard-rows", "32"]
        each = []
        for number, more in enumerate(([], ["--shards", "s3://bucket/run"], ["--shards", "s3://bucket/run"])):
            own = {"XBENCH_CACHE": str(tmp_path / f"c{min(number, 1)}")} | environment
            done = servers.run(*command, "-o", str(number), *more, cwd=tmp_path, environment=own)
            assert done.returncode == 0, done.stderr.decode()
            each.append((done.stdout, results(tmp_path / str(number)), len(os.listdir(seen))))
        assert each[0][:2] == each[1][:2] == each[2][:2]
        assert (each[0][2], each[1][2], each[2][2]) == (1, 2, 2)  # the third process has encoded nothing
        assert on_disk("bucket/run") == files_of(tmp_path / "c0" / "shards")


def written(folder: Folder, change: Change) -> None:
    """Whole or not at all, missing files, and listings of now, at a URL whose file system fsspec keeps."""

    def parts() -> Iterator[bytes]:
        for _ in range(8):  # more than the 5 MB of one part of an upload of S3's
            yield bytes(1 << 20)
        yield BIG
        raise KeyboardInterrupt

    before = folder.names()
    with pytest.raises(KeyboardInterrupt):
        folder.write("half", parts())  # type: ignore[arg-type]
    assert folder.names() == before
    with pytest.raises(StorageError, match="cannot read s3://bucket/deep/shards/nobody: FileNotFoundError"):
        folder.sha256("nobody")
    with pytest.raises(StorageError, match="cannot read s3://bucket/deep/shards/nobody: FileNotFoundError"):
        folder.read("nobody")
    change("other", b"of another machine")
    assert folder.sha256("other") == hashlib.sha256(b"of another machine").hexdigest()
    assert folder.names() == before | {"other"}
    folder.write("big", [bytes(8 << 20), BIG])
    assert folder.sha256("big") == hashlib.sha256(bytes(8 << 20) + BIG).hexdigest()


def write_into(place: tuple[str, int, int]) -> str | None:
    """What goes wrong when a file is written into a folder of a new folder."""
    url, i, j = place
    try:
        (open_folder(url) / f"{i}" / "new").write(f"{j}", [b"x"])
    except StorageError as error:
        return str(error)
    return None


def test_workers_make_one_folder_at_once(tmp_path: Path) -> None:
    with servers.ftp(tmp_path / "ftp") as url, multiprocessing.get_context("spawn").Pool(3) as pool:
        found = pool.map(write_into, [(url, i, j) for i in range(20) for j in range(3)], chunksize=1)
    assert found == [None] * 60
    assert len(list((tmp_path / "ftp").glob("*/new/*"))) == 60
