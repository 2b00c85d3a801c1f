"""Chooses the device, the number of threads and the compile cache, before TensorFlow starts."""

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

# Messages of TensorFlow about a missing GPU or about its own build, which do not help a user.
_NOISE = re.compile(
    r"cuda drivers|cudart_stub|cuda_platform|cuInit|rebuild TensorFlow|oneDNN custom operations|absl::InitializeLog"
    r"|computation_placer|Unable to register cu|cpu_feature_guard|XLA service|StreamExecutor device|device_compiler\.h"
)

# Gains measured on small networks with benchmark.py: the first flag 5 to 7 %, where the CPU has AVX-512; the second
# 3 %, because programs then copy less between the iterations of a loop.
XLA_FLAGS = ("--xla_cpu_prefer_vector_width=512", "--xla_cpu_enable_concurrency_optimized_scheduler=false")

MOST_CACHED = 2**31  # bytes; a program takes 0.1 to 5 MB
ROOM = 2**26  # bytes that a run's programs may take together: where there is less, a later one may find no place
_log = logging.getLogger("rlresearch")
warned: set[str] = set()  # reasons why programs are not kept, each said once


def prepare(device: str, threads: int | None, deterministic: bool, compile_cache: bool) -> str:
    """Loads TensorFlow with these settings and returns its device: `cpu`, or the GPU's name.

    In one process, only the first call sets threads and cache; a later call cannot change them.
    Errors: ConfigError where `device` is gpu and there is none.
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
    """Returns the given XLA flags, plus each flag of XLA_FLAGS that they do not set."""
    named = {flag.partition("=")[0] for flag in given.split()}
    return " ".join([*(flag for flag in XLA_FLAGS if flag.partition("=")[0] not in named), *given.split()])


def cache_folder() -> Path | None:
    """Returns the folder for compiled programs, `rlresearch/xla` in the user's cache folder; limits its size.

    None, with one warning per process, where it takes no file: XLA would end the run over the first one.
    """
    where: Path | str = "the user's cache folder"
    try:
        where = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rlresearch" / "xla"
        where.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):  # another process may be at it
            files = [(about.st_mtime, about.st_size, each.path) for each in os.scandir(where) if (about := each.stat())]
            left = sum(size for _, size, _ in files)
            if left > MOST_CACHED:  # the oldest go, until half of that is left
                for _, size, path in sorted(files):
                    if left > MOST_CACHED // 2:
                        os.unlink(path)
                        left -= size
        with tempfile.TemporaryFile(dir=where) as probe:
            os.posix_fallocate(probe.fileno(), 0, ROOM)
        return where
    except (OSError, RuntimeError) as error:  # RuntimeError: this user has no home
        why = f"{where}: {getattr(error, 'strerror', None) or error}"
    if why not in warned:
        warned.add(why)
        _log.warning("compiled programs are not kept (%s); XDG_CACHE_HOME=FOLDER names another place", why)
    return None


@contextlib.contextmanager
def without_noise() -> Iterator[None]:
    """Captures standard error, also of C++ code, and then prints it without the lines that match _NOISE."""
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
