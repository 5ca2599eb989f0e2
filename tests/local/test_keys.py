"""The keys that Medic makes."""

from __future__ import annotations

import base64
import stat
from pathlib import Path

import pytest

from medic.errors import Misconfigured
from medic.local.keys import KEYS, key_files
from medic.settings import Settings


def test_keys_are_made_once_private_and_long(tmp_path: Path) -> None:
    files = key_files(tmp_path / "keys", {}, database_exists=False)
    assert set(files) == {f"{name}_FILE" for name in KEYS}
    values = [Path(path).read_text() for path in files.values()]
    assert len(set(values)) == 3
    assert [len(base64.b64decode(value)) for value in values] == [32, 32, 32]
    assert {stat.S_IMODE(Path(path).stat().st_mode) for path in files.values()} == {0o600}
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700

    again = key_files(tmp_path / "keys", {}, database_exists=True)
    assert again == files
    assert [Path(path).read_text() for path in again.values()] == values


def test_the_settings_read_the_keys_from_their_files(tmp_path: Path) -> None:
    files = key_files(tmp_path / "keys", {}, database_exists=False)
    settings = Settings.from_env(files)
    assert settings.need_pepper().decode() == Path(files["MEDIC_API_KEY_PEPPER_FILE"]).read_text().strip()


def test_a_key_that_is_given_is_not_made(tmp_path: Path) -> None:
    given = {
        "MEDIC_SECRETS_KEY": "x",
        "MEDIC_AUDIT_KEY_FILE": "/run/secrets/audit",
        "MEDIC_API_KEY_PEPPER": "",
    }
    assert set(key_files(tmp_path / "keys", given, database_exists=False)) == {"MEDIC_API_KEY_PEPPER_FILE"}
    assert [path.name for path in (tmp_path / "keys").iterdir()] == ["api_key_pepper"]


def test_a_key_lost_beside_a_database_is_not_made_anew(tmp_path: Path) -> None:
    files = key_files(tmp_path / "keys", {}, database_exists=False)
    Path(files["MEDIC_SECRETS_KEY_FILE"]).unlink()
    with pytest.raises(Misconfigured, match=r"secrets_key is missing.*set MEDIC_SECRETS_KEY"):
        key_files(tmp_path / "keys", {}, database_exists=True)
    assert not Path(files["MEDIC_SECRETS_KEY_FILE"]).exists()


@pytest.mark.parametrize("text", ["", "hunter2-not-base64!", base64.b64encode(b"short").decode()])
def test_a_damaged_key_is_refused_and_not_shown(tmp_path: Path, text: str) -> None:
    files = key_files(tmp_path / "keys", {}, database_exists=False)
    Path(files["MEDIC_AUDIT_KEY_FILE"]).write_text(text)
    with pytest.raises(Misconfigured, match="damaged") as caught:
        key_files(tmp_path / "keys", {}, database_exists=True)
    assert not text or text not in str(caught.value)


def test_a_key_open_to_others_is_closed_again(tmp_path: Path) -> None:
    files = key_files(tmp_path / "keys", {}, database_exists=False)
    path = Path(files["MEDIC_AUDIT_KEY_FILE"])
    path.chmod(0o644)
    key_files(tmp_path / "keys", {}, database_exists=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
