"""Checkpoints on the disk: whole or not at all, every damaged byte noticed, the previous one always there."""

import errno
import hashlib
import json
import os
import random
import re

import numpy as np
import pytest
from support.failing_disks import Disk, PowerGone, tampered

from rlresearch.storage import atomic, checkpoint, tensor_files
from rlresearch.storage.checkpoint import Writer, load, names, newest
from rlresearch.storage.manifest import CheckpointMetadata
from rlresearch.storage.tensor_files import CorruptCheckpointError, Ring

CAPACITY, WIDTH = 40, 3


class Run:
    """A run whose state says how often it was saved, with a ring of rows that say their own numbers."""

    def __init__(self, path, keep_last=2, **settings):
        self.path, self.saves, self.added = path, 0, 0
        self.columns = {"float32": np.zeros((CAPACITY, WIDTH), np.float32), "bool": np.zeros((CAPACITY, 2), bool)}
        self.settings = dict(keep_last=keep_last, **settings)
        self.writer = Writer(path, **self.settings)
        path.mkdir(exist_ok=True)

    def add(self, rows):
        for number in range(self.added, self.added + rows):
            self.columns["float32"][number % CAPACITY] = number
            self.columns["bool"][number % CAPACITY] = number % 3 == 0
        self.added += rows

    def rings(self):
        rows = lambda begin, end: {k: v[np.arange(begin, end) % CAPACITY] for k, v in self.columns.items()}  # noqa: E731
        return {"replay": Ring(CAPACITY, self.added, rows)}

    def arrays(self):
        weights = np.full((4, 2), self.saves, np.float32)
        return {"key": np.array([7, self.saves], np.uint32), "weights": weights, "n": np.asarray(np.int64(self.saves))}

    def save(self, **about):
        self.saves += 1
        own = dict(step=self.saves * 10, iteration=self.saves * 10, members=[0], position={}, logs=[], times={})
        rings = self.rings()
        rows = self.writer.unwritten(rings)
        path = self.writer.save(self.arrays(), rings, rows, CheckpointMetadata(**own | about), {"numpy": "2"}, "now")
        self.writer.rotate()
        return path

    def check(self, loaded):
        """That `loaded` is some save of this run, and all of it; returns which."""
        saves = int(loaded.arrays["n"])
        assert (loaded.arrays["weights"] == saves).all() and loaded.arrays["key"].tolist() == [7, saves]
        ring = loaded.ring("replay", self.columns)
        added = loaded.manifest.rings["replay"].added
        for number in range(max(0, added - CAPACITY), added):
            assert (ring["float32"][number % CAPACITY] == number).all()
            assert (ring["bool"][number % CAPACITY] == (number % 3 == 0)).all()
        return saves


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "run")


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_every_save_comes_back_whole_while_the_ring_turns(run):
    for rows in (0, 5, 30, 7, 80, 40, 1, 0, 39, 3):
        run.add(rows)
        run.save()
        assert run.check(load(run.path, names(run.path)[0])) == run.saves
        assert run.check(load(run.path, names(run.path)[-1])) == max(1, run.saves - 1)  # its rows are still there


@pytest.mark.parametrize("when", ["going on", "the next save"])
def test_what_a_process_was_killed_over_is_removed(run, when):
    run.add(20)
    run.save()
    folder = run.path / "checkpoints"
    for left in (folder / ".tmp-1" / "state", folder / checkpoint.REPLAY / ".tmp-2"):
        left.parent.mkdir(exist_ok=True)
        left.write_bytes(b"x")
    if when == "going on":
        Writer(run.path, 2).resume_from(newest(run.path)[0])
    else:
        run.save()
    assert not list(run.path.rglob(".tmp-*")) and run.check(newest(run.path)[0]) == run.saves


def test_another_process_goes_on_where_one_stopped_and_rewrites_nothing(run):
    run.add(20)
    run.save()
    loaded, _ = newest(run.path)
    before = {path: path.read_bytes() for path in files_of(run.path)}
    run.writer = Writer(run.path, 2)
    run.writer.resume_from(loaded)
    run.add(3)
    run.save()
    assert run.check(load(run.path, names(run.path)[0])) == 2
    assert all(path.read_bytes() == content for path, content in before.items())
    new = [path for path in files_of(run.path) if path not in before and path.suffix == ".rows"]
    assert len(new) == 1 and new[0].stat().st_size < 1_000


def test_bytes_of_a_save_are_those_of_the_new_rows_and_the_state(tmp_path):
    wide, rows = 50, 2_000
    column = np.random.default_rng(0).normal(size=(20_000, wide)).astype(np.float32)
    writer, path = Writer(tmp_path, 3), tmp_path
    state = {"weights": np.zeros(10_000, np.float32)}
    for save in range(1, 25):
        ring = {"replay": Ring(20_000, save * rows, lambda a, b: {"float32": column[np.arange(a, b) % 20_000]})}
        own = dict(step=save, iteration=save, members=[0], position={}, logs=[], times={})
        before = {file: file.stat().st_size for file in files_of(path)}
        writer.save(state, ring, writer.unwritten(ring), CheckpointMetadata(**own), {}, "now")
        grown = sum(file.stat().st_size - before.get(file, 0) for file in files_of(path))
        writer.rotate()
        assert grown <= 1.2 * (rows * wide * 4 + 40_000)
        replay = sum(file.stat().st_size for file in (path / "checkpoints" / "replay").iterdir())
        assert replay <= 1.5 * 20_000 * wide * 4  # old rows go when nobody needs them


def test_the_newest_the_best_and_every_third_planned_one_stay(tmp_path):
    run = Run(tmp_path / "run", keep_last=2, keep_best=True, keep_every=3)
    scores = [1.0, 9.0, 3.0, 4.0, None, 5.0, 6.0, 2.0]
    for serial, score in enumerate(scores, start=1):
        run.add(3)
        run.save(score=score, serial=serial)
    assert [int(name) // 10 for name in names(run.path)] == [8, 7, 6, 3, 2]
    assert run.writer.best_score() == 9.0 and run.writer.last_serial() == 8
    assert checkpoint.load_named(run.path, "best", "x").about.step == 20
    assert checkpoint.load_named(run.path, "30", "x").about.step == 30
    assert newest(run.path)[0].about.step == 80


def test_a_place_that_nobody_can_go_on_from_is_passed_over(run):
    run.save()
    run.save()
    run.save(exact=False)
    assert newest(run.path)[0].about.step == 20
    assert checkpoint.load_named(run.path, "last", "x").about.step == 30
    run.save(exact=False)
    assert [int(name) // 10 for name in names(run.path)] == [4, 2, 1]


# Damage.


def changed(content, rng):
    """(what was done, content) for every way in which a file may be damaged: each byte, each length, blocks."""
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.randrange(8)
        yield f"byte {place}", bytes(damaged)
    for length in range(len(content)):
        yield f"length {length}", content[:length]
    for size in (16, 128):
        blocks = [content[i : i + size] for i in range(0, len(content), size)]
        for i in range(len(blocks) - 1):
            swapped = [*blocks[:i], blocks[i + 1], blocks[i], *blocks[i + 2 :]]
            yield f"blocks {i}", b"".join(swapped)
            yield f"zeroed {i}", b"".join([*blocks[:i], bytes(len(blocks[i])), *blocks[i + 1 :]])


def test_every_byte_length_and_block_of_a_checkpoint_counts(run):
    """The newest of two is damaged in every way: each time the other one is found, and the file is named."""
    run.add(4)
    run.save()
    run.add(3)
    path = run.save()
    (rows,) = (run.path / "checkpoints" / "replay").iterdir()
    whole, rng, tensors = newest(run.path)[0], random.Random(0), set()
    assert whole is not None
    before = whole.manifest.rings["replay"].files[0].size
    assert load(run.path, names(run.path)[1]).manifest.rings["replay"].files[0].size < before
    assert run.check(whole) == 2
    for file in (path / "state.safetensors", path / "manifest.json", rows):
        content = file.read_bytes()
        first = load(run.path, names(run.path)[1]).manifest.rings["replay"].files[0].size if file == rows else 0
        for what, damaged in changed(content[first:], rng):
            if content[first:] == damaged:
                continue
            file.write_bytes(content[:first] + damaged)
            found, why = newest(run.path)
            assert found is not None and found.about.step == 10, f"{file.name}, {what}: not noticed"
            (message,) = why.values()
            assert message.startswith(file.name), f"{what}: {message}"
            tensors |= set(re.findall("tensor '(.+?)'", message))
        file.write_bytes(content)
    assert tensors == {"weights", "key", "n", "float32", "bool"}
    (path / "state.safetensors").write_bytes((path / "state.safetensors").read_bytes() + b"x")
    assert newest(run.path)[0].about.step == 10


def test_what_is_appended_to_the_rows_later_concerns_nobody(run):
    run.add(4)
    run.save()
    (rows,) = (run.path / "checkpoints" / "replay").iterdir()
    rows.write_bytes(rows.read_bytes() + b"half a row")
    assert run.check(newest(run.path)[0]) == 1


@pytest.mark.parametrize("kind", ["link", "fifo", "folder", "pickle", "missing"])
@pytest.mark.parametrize("name", ["state.safetensors", "manifest.json"])
def test_what_is_no_plain_file_is_damage(run, name, kind, tmp_path):
    path = run.save() / name
    content = path.read_bytes()
    path.unlink()
    if kind == "link":
        (tmp_path / "elsewhere").write_bytes(content)
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "pickle":
        path.write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    assert newest(run.path)[0] is None


@pytest.mark.parametrize("name", ["../../elsewhere.rows", "/etc/passwd", "a/b.rows", "..rows", "rows-1.rows\n"])
def test_a_manifest_cannot_lead_out_of_its_run(run, name):
    run.add(2)
    path = run.save() / "manifest.json"
    fields = json.loads(path.read_bytes())
    fields["rings"]["replay"]["files"][0]["name"] = name
    fields.pop("digest")
    path.write_bytes(checkpoint.signed(fields))
    with pytest.raises(CorruptCheckpointError, match="manifest.json cannot be read"):
        load(run.path, names(run.path)[0])


# Disks that fail.


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_whichever_call_fails_the_last_good_one_stays_and_the_next_save_succeeds(tmp_path, code):
    """Call after call fails once, until a save needs fewer."""

    def fails(name):
        raise OSError(code, os.strerror(code), name)

    failed = 0
    for at in range(200):
        run = Run(tmp_path / f"run{at}")
        for _ in range(2):
            run.add(7)
            run.save()
        run.add(5)
        with tampered(Disk(at, fails)) as disk:
            try:
                run.save()
            except OSError as error:
                assert error.errno == code
                failed += 1
        assert run.check(newest(run.path)[0]) in (2, 3)
        run.add(2)
        run.save()
        assert run.check(newest(run.path)[0]) == 4
        assert not list(run.path.rglob(".tmp-*"))
        if disk.calls <= at:
            break
    else:
        pytest.fail("there is always one more call")
    assert failed >= 8


def crash_states(tmp_path):
    """(call at which the power went, its run, its disk), for every call of a save and the rotation after it."""
    for at in range(200):
        run = Run(tmp_path / f"run{at}")
        for _ in range(2):
            run.add(15)
            run.save()
        run.add(15)

        def gone(name):
            raise PowerGone

        with tampered(Disk(at, gone, once=False)) as disk:
            try:
                run.save()
            except PowerGone:
                pass
        yield at, run, disk
        if disk.calls <= at:
            return
    pytest.fail("there is always one more call")


def check_crash_states(tmp_path):
    for at, run, disk in crash_states(tmp_path):
        for lost in (False, True):
            if lost:
                disk.after_power_loss()
            found, damaged = newest(run.path)
            assert found is not None, f"call {at}: nothing is left: {damaged}"
            assert not damaged, f"call {at}: {damaged}"
            assert run.check(found) in (2, 3)
            for name in names(run.path):  # what has a name is whole, also what was about to be removed
                try:
                    load(run.path, name)
                except CorruptCheckpointError as error:
                    pytest.fail(f"call {at}: {name}: {error}")
    assert run.check(found) == 3 and at > 15


def test_whenever_the_power_goes_the_old_or_the_new_one_is_there(tmp_path):
    check_crash_states(tmp_path)


# These tests can fail.


def no_fsync_of_files(patch):
    def write_file(path, content):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        atomic.write_all(file, content)
        os.close(file)

    patch.setattr(atomic, "write_file", write_file)


def no_fsync_of_folders(patch):
    patch.setattr(atomic, "sync_folder", lambda folder: None)


def no_fsync_of_rows(patch):
    real = tensor_files.RowWriter.append

    def append(self, *arguments):
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(os, "fsync", lambda file: None)
            real(self, *arguments)

    patch.setattr(tensor_files.RowWriter, "append", append)


def manifest_first(patch):
    real = atomic.write_file
    waiting = {}

    def write_file(path, content):
        if path.name == checkpoint.STATE:
            waiting[path] = content
            return
        real(path, content)
        os.rename(path.parent, published := path.parent.parent / "000000000099")
        real(published / checkpoint.STATE, waiting[path.parent / checkpoint.STATE])
        os.rename(published, path.parent)

    patch.setattr(atomic, "write_file", write_file)


def old_ones_removed_first(patch):
    real = Writer.save

    def save(self, *arguments):
        for name in names(self._run):
            atomic.discard(self.folder / name)
        return real(self, *arguments)

    patch.setattr(Writer, "save", save)


def removed_in_place(patch):
    """File by file, under the name that it had."""

    def discard(path):
        for each in sorted(path.iterdir(), reverse=True) if path.is_dir() else ():
            os.unlink(each)
        if path.exists():
            (os.rmdir if path.is_dir() else os.unlink)(path)

    patch.setattr(atomic, "discard", discard)


def rows_removed_that_the_previous_one_needs(patch):
    real = Writer.remove_rows
    patch.setattr(Writer, "remove_rows", lambda self, manifests: real(self, manifests[:1]))


ORDER = [no_fsync_of_files, no_fsync_of_folders, no_fsync_of_rows]
ORDER += [manifest_first, old_ones_removed_first, removed_in_place]


@pytest.mark.parametrize("bug", ORDER)
def test_a_planted_bug_in_the_order_of_writing_is_caught(tmp_path, monkeypatch, bug):
    bug(monkeypatch)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check_crash_states(tmp_path)


def digest_of_the_wrong_bytes(patch):
    patch.setattr(tensor_files, "digest", lambda content: hashlib.blake2b(digest_size=16).hexdigest())


def ring_not_turned(patch):
    real = np.arange
    patch.setattr(checkpoint.np, "arange", lambda *bounds: np.minimum(real(*bounds), CAPACITY - 1))


def last_row_forgotten(patch):
    real = tensor_files.packed

    def packed(arrays, **about):
        if "end" in about:  # of rows
            arrays, about["end"] = {k: v[:-1] for k, v in arrays.items()}, str(int(about["end"]) - 1)
        return real(arrays, **about)

    patch.setattr(tensor_files, "packed", packed)


def rows_laid_out_wrongly(patch):
    real = tensor_files.safetensors.numpy.save
    transposed = lambda arrays, about: real({k: v.T.copy().reshape(v.shape) for k, v in arrays.items()}, about)  # noqa: E731
    patch.setattr(tensor_files.safetensors.numpy, "save", transposed)


@pytest.mark.parametrize(
    "bug, test",
    [
        (digest_of_the_wrong_bytes, test_every_byte_length_and_block_of_a_checkpoint_counts),
        (ring_not_turned, test_every_save_comes_back_whole_while_the_ring_turns),
        (last_row_forgotten, test_every_save_comes_back_whole_while_the_ring_turns),
        (rows_laid_out_wrongly, test_every_save_comes_back_whole_while_the_ring_turns),
        (rows_removed_that_the_previous_one_needs, test_every_save_comes_back_whole_while_the_ring_turns),
    ],
)
def test_a_planted_bug_in_what_is_written_is_caught(run, monkeypatch, bug, test):
    bug(monkeypatch)
    with pytest.raises((AssertionError, CorruptCheckpointError)):
        test(run)
