"""Tests of files that are either written completely or not at all."""

import os
import stat

import pytest

from cnn_jax.output import write_whole


@pytest.mark.parametrize('mask', [0o022, 0o077])
def test_a_file_has_the_permissions_of_any_new_file(tmp_path, mask):
    before = os.umask(mask)
    try:
        with write_whole(tmp_path / 'new' / 'a', 'wb') as file:
            file.write(b'1')
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / 'new' / 'a').stat().st_mode) == 0o666 & ~mask


def test_a_failure_leaves_the_file_as_it_was(tmp_path):
    (tmp_path / 'a').write_text('old')
    with pytest.raises(KeyboardInterrupt), write_whole(tmp_path / 'a') as file:
        file.write('new')
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ['a']
    assert (tmp_path / 'a').read_text() == 'old'


def test_links_and_devices_stay_what_they_are(tmp_path):
    (tmp_path / 'link').symlink_to(tmp_path / 'target')
    with write_whole(tmp_path / 'link') as file:
        file.write('new')
    assert (tmp_path / 'link').is_symlink() and (tmp_path / 'target').read_text() == 'new'
    with write_whole('/dev/null') as file:
        file.write('new')
    assert stat.S_ISCHR(os.stat('/dev/null').st_mode)
