"""Which folders may hold compiled kernels: those that nobody but the user and root can change."""

import os

import pytest

from secagg_native.kernels import _jit


def test_a_private_folder_is_private(tmp_path):
    assert _jit.private(tmp_path)


@pytest.mark.parametrize("mode", [0o777, 0o707, 0o1777, 0o702])
def test_a_folder_that_anyone_can_write_to_is_not_private(tmp_path, mode):
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(mode)
    assert not _jit.private(folder)


def test_nor_is_one_that_anyone_could_swap(tmp_path):
    folder = tmp_path / "above" / "folder"
    folder.mkdir(parents=True)
    (tmp_path / "above").chmod(0o777)
    assert not _jit.private(folder)
    # As in /tmp: others cannot rename what is not theirs.
    (tmp_path / "above").chmod(0o1777)
    assert _jit.private(folder)


def test_links_are_followed(tmp_path):
    """What counts is who could swap the folder, and not the link to it."""
    inner = tmp_path / "open" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "link").symlink_to(inner)
    assert _jit.private(tmp_path / "link")
    (tmp_path / "open").chmod(0o777)
    assert not _jit.private(tmp_path / "link")


def test_a_folder_of_another_user_is_not_private(tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    folder.mkdir()
    if os.geteuid() == 0:
        os.chown(folder, 54321, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 54321)
    assert not _jit.private(folder)


@pytest.mark.parametrize("own", [True, False])
def test_a_group_may_write_if_it_is_the_users_own(tmp_path, monkeypatch, own):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder").chmod(0o770)
    monkeypatch.setattr(_jit, "_is_own_group", lambda group: own)
    assert (_jit.private(tmp_path / "folder") is not None) is own


@pytest.mark.parametrize(
    ("group", "user", "own"),
    [
        (("ann", 1000, []), ("ann", 1000), True),
        (("ann", 1000, ["ann"]), ("ann", 1000), True),
        (("ann", 1000, ["bob"]), ("ann", 1000), False),
        (("ann", 1000, ["ann", "bob"]), ("ann", 1000), False),
        (("staff", 1000, []), ("ann", 1000), False),
        (("ann", 1000, []), ("ann", 100), False),
        (None, ("ann", 1000), False),
        (("ann", 1000, []), None, False),
    ],
)
def test_the_users_own_group(monkeypatch, group, user, own):
    import grp
    import pwd

    def find_group(number):
        assert number == 1000
        if group is None:
            raise KeyError(number)
        return grp.struct_group((group[0], "x", group[1], group[2]))

    def find_user(number):
        if user is None:
            raise KeyError(number)
        return pwd.struct_passwd((user[0], "x", number, user[1], "", "/", "/bin/sh"))

    monkeypatch.setattr(grp, "getgrgid", find_group)
    monkeypatch.setattr(pwd, "getpwuid", find_user)
    accounts = [pwd.struct_passwd((*user[:1], "x", 1, user[1], "", "/", "/bin/sh"))] if user else []
    monkeypatch.setattr(pwd, "getpwall", lambda: accounts)
    assert _jit._is_own_group(1000) is own


@pytest.mark.parametrize(
    ("listed", "accounts", "own"),
    [([], [], True), (["root"], ["root"], True), (["bob"], [], False), ([], ["bob"], False)],
)
def test_the_group_of_root(monkeypatch, listed, accounts, own):
    """An account may have a group as its own without being listed in it."""
    import grp
    import pwd

    found = [pwd.struct_passwd((name, "x", 7, 0, "", "/", "/bin/sh")) for name in accounts]
    monkeypatch.setattr(grp, "getgrgid", lambda _: grp.struct_group(("root", "x", 0, listed)))
    monkeypatch.setattr(pwd, "getpwall", lambda: found)
    assert _jit._is_own_group(0) is own
