"""Which device, how many threads, which compile cache: settled before TensorFlow starts."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rlresearch.errors import ConfigError

# What TensorFlow says on every machine without a GPU, or of its own build; nothing a user can act on.
_NOISE = re.compile(
    r"cuda drivers|cudart_stub|cuda_platform|cuInit|rebuild TensorFlow|oneDNN custom operations|absl::InitializeLog"
    r"|computation_placer|Unable to register cu|cpu_feature_guard|XLA service|StreamExecutor device|device_compiler\.h"
)

# Measured on small networks with benchmark.py: the first 5 to 7 %, where the CPU has AVX-512; the second 3 %,
# as programs then copy less between the iterations of a loop.
XLA_FLAGS = ("--xla_cpu_prefer_vector_width=512", "--xla_cpu_enable_concurrency_optimized_scheduler=false")

MOST_CACHED = 2**31  # bytes; a program takes 0.1 to 5 MB
ROOM = 2**26  # bytes that a run's programs may take together: where there is less, a later one may find no place
_log = logging.getLogger("rlresearch")
told: set[str] = set()  # reasons why programs are not kept, each said once


def prepare(device: str, threads: int | None, deterministic: bool, compile_cache: bool) -> str:
    """Loads TensorFlow as asked for and returns the device that it will use: `cpu`, or the GPU's name.

    Works once a process; a second call with other settings cannot change threads or the cache.
    ConfigError where a GPU is asked for and there is none.
    """
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    if compile_cache and (folder := cache_folder()) is not None:
        flag = f"--tf_xla_persistent_cache_directory={folder}"
        if flag not in os.environ.get("TF_XLA_FLAGS", ""):
            os.environ["TF_XLA_FLAGS"] = f"{os.environ.get('TF_XLA_FLAGS', '')} {flag}".strip()
    os.environ["XLA_FLAGS"] = with_own_flags(os.environ.get("XLA_FLAGS", ""))
    with without_noise():
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
    if device == "gpu" and not gpus:
        raise ConfigError("device=gpu, but TensorFlow finds no GPU here: use device=auto or device=cpu.")
    with contextlib.suppress(RuntimeError):  # a second run in this process finds the devices in use
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
        if threads is not None:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    if device == "cpu" or not gpus:
        return "cpu"
    return tf.config.experimental.get_device_details(gpus[0]).get("device_name", "gpu")


def with_own_flags(given: str) -> str:
    """XLA's flags as given, and each of XLA_FLAGS that they do not set themselves."""
    named = {flag.partition("=")[0] for flag in given.split()}
    return " ".join([*(flag for flag in XLA_FLAGS if flag.partition("=")[0] not in named), *given.split()])


def cache_folder() -> Path | None:
    """Where compiled programs are kept: `rlresearch/xla` in the user's cache folder, and not without end.

    None, with a warning once a process, where it takes no file: XLA would end the run over the first one.
    """
    where: Path | str = "the user's cache folder"
    try:
        where = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rlresearch" / "xla"
        where.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):  # another process may be at it
            _thin_out(where, MOST_CACHED)
        with tempfile.TemporaryFile(dir=where) as probe:
            os.posix_fallocate(probe.fileno(), 0, ROOM)
        return where
    except (OSError, RuntimeError) as error:  # RuntimeError: this user has no home
        why = f"{where}: {getattr(error, 'strerror', None) or error}"
    if why not in told:
        told.add(why)
        _log.warning("compiled programs are not kept (%s); XDG_CACHE_HOME=FOLDER names another place", why)
    return None


def _thin_out(folder: Path, most: int) -> None:
    """Removes the oldest files of a folder that holds more than `most` bytes, until half of that is left."""
    files = sorted((about.st_mtime, about.st_size, each.path) for each in os.scandir(folder) if (about := each.stat()))
    left = sum(size for _, size, _ in files)
    if left > most:
        for _, size, path in files:
            os.unlink(path)
            left -= size
            if left <= most // 2:
                return


@contextlib.contextmanager
def without_noise() -> Iterator[None]:
    """Holds back standard error, also of C++ code, and lets through what is no noise."""
    try:
        number = sys.__stderr__.fileno()  # type: ignore[union-attr]  # None has none: AttributeError
        kept = os.dup(number)
    except (AttributeError, OSError, ValueError):
        yield
        return
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), number)
        try:
            yield
        finally:
            os.dup2(kept, number)
            os.close(kept)
            held.seek(0)
            lines = held.read().decode(errors="replace").splitlines(keepends=True)
            sys.stderr.write("".join(line for line in lines if not _NOISE.search(line)))
