"""A process started without a home or a name."""

from __future__ import annotations

import getpass
import os
from pathlib import Path

from msapp.cli.console import USER, ensure_user

NAMES = ('LOGNAME', 'USER', 'LNAME', 'USERNAME')


def test_a_user_that_the_system_does_not_know_gets_a_name_and_a_home(monkeypatch):
    def unknown(*_):
        raise KeyError('uid not found')

    monkeypatch.setattr('pwd.getpwuid', unknown)
    for name in (*NAMES, 'HOME'):
        monkeypatch.setenv(name, '')  # put back afterwards
        monkeypatch.delenv(name)
    ensure_user()
    assert getpass.getuser() == USER
    assert Path.home() == Path(os.devnull)


def test_a_user_who_has_both_keeps_them(monkeypatch, tmp_path):
    monkeypatch.setenv('LOGNAME', 'ann')
    monkeypatch.setenv('HOME', str(tmp_path))
    ensure_user()
    assert (getpass.getuser(), Path.home()) == ('ann', tmp_path)
