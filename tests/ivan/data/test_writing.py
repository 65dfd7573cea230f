"""Writing: a file is there complete or not at all, whatever fails."""

from __future__ import annotations

import errno
import os
import stat
import tempfile

import numpy as np
import pytest

from ivan.data import atomic_file, read_volume, write_volume
from ivan.errors import InputError, RunError


@pytest.fixture
def source(save_nifti, volume):
    return read_volume(save_nifti("source.nii.gz", volume))


def test_folders_are_made_and_old_files_replaced(tmp_path, source):
    path = tmp_path / "new" / "folder" / "a.nii.gz"
    write_volume(path, source.data, source)
    write_volume(path, source.data * 2, source)
    assert np.array_equal(read_volume(path).data, source.data * 2)
    assert os.listdir(path.parent) == ["a.nii.gz"]


def test_long_names_of_long_letters(tmp_path, monkeypatch):
    """Up to 255 bytes, of which the temporary name has more than the file's own."""
    monkeypatch.setattr("platform.node", lambda: "n" * 64)
    path = tmp_path / ("\U00020000" * 60 + ".nii.gz")
    with atomic_file(path) as file:
        file.write(b"a")
    assert path.read_bytes() == b"a"


def test_equal_volumes_give_equal_bytes(tmp_path, source):
    one = write_volume(tmp_path / "1.nii.gz", source.data, source).read_bytes()
    assert write_volume(tmp_path / "2.nii.gz", source.data, source).read_bytes() == one


def test_permissions_follow_the_umask(tmp_path, source):
    path = write_volume(tmp_path / "a.npy", source.data, source)
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".npy", ".mat"])
def test_full_disk_leaves_the_old_file(tmp_path, source, monkeypatch, call, suffix):
    folder = tmp_path / "out"
    path = write_volume(folder / f"a{suffix}", source.data, source)
    before = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(RunError, match=r"a\.\w+(\.gz)?: cannot be written \(No space left on device\)"):
        write_volume(path, source.data * 2, source)
    assert os.listdir(folder) == [path.name]
    assert path.read_bytes() == before


def test_full_disk_in_the_middle_of_the_data(tmp_path, source, monkeypatch):
    """The operating system's own full device: every write to it fails."""
    monkeypatch.setattr(
        tempfile, "mkstemp", lambda **_: (os.open("/dev/full", os.O_WRONLY), str(tmp_path / "t.part"))
    )
    with pytest.raises(RunError, match=r"a.nii: cannot be written \(No space left on device\)"):
        write_volume(tmp_path / "a.nii", source.data, source)
    assert not (tmp_path / "a.nii").exists()


def test_no_permission_and_no_folder(tmp_path, source, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"a\.nii: cannot be written"):
        write_volume(tmp_path / "file" / "a.nii", source.data, source)
    (tmp_path / "taken.nii").mkdir()
    with pytest.raises(RunError, match=r"taken.nii: cannot be written.*folder"):
        write_volume(tmp_path / "taken.nii", source.data, source)

    def refuse(**_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    with pytest.raises(RunError, match=r"b.nii: cannot be written \(Permission denied\)"):
        write_volume(tmp_path / "b.nii", source.data, source)


def test_interrupted_writing_leaves_nothing(tmp_path):
    def interrupted():
        with atomic_file(tmp_path / "a.bin") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert os.listdir(tmp_path) == []


def test_refused(tmp_path, source):
    with pytest.raises(InputError, match=r"a.jpg: cannot write this format"):
        write_volume(tmp_path / "a.jpg", source.data, source)
    with pytest.raises(InputError, match=r"shape \(4, 6, 4\), expected \(5, 6, 4\)"):
        write_volume(tmp_path / "a.nii", source.data[1:], source)
    with pytest.raises(InputError, match="NaN or infinite"):
        write_volume(tmp_path / "a.nii", source.data * np.nan, source)
    with pytest.raises(InputError, match="PNG holds one image"):
        write_volume(tmp_path / "a.png", source.data, source)
    assert os.listdir(tmp_path) == ["source.nii.gz"]
