"""Which server is asked, and who gets which key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medic.client.address import Address, Key, find_address
from medic.errors import Misconfigured


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def data_folder(path: Path, *, url: str = "http://127.0.0.1:8080", key: str = "mdk_local") -> Path:
    path.mkdir()
    (path / "admin.key").write_text(f"{key}\n")
    (path / "client.json").write_text(json.dumps({"url": url, "key_file": str(path / "admin.key")}))
    return path


def key_of(environ: dict[str, str], **given: object) -> str | None:
    found = find_address(environ, **given).key  # type: ignore[arg-type]
    return found.reveal() if found else None


def test_an_option_wins_over_the_environment_and_that_over_the_folder(tmp_path: Path) -> None:
    data_folder(tmp_path / ".medic")
    named = {"MEDIC_BASE_URL": "https://named.example", "MEDIC_API_KEY": "mdk_named"}
    given = find_address(named, url="https://given.example/", key="mdk_given")
    assert (given.url, given.key and given.key.reveal()) == ("https://given.example", "mdk_given")
    assert find_address(named).url == "https://named.example"
    assert key_of(named) == "mdk_named"
    assert find_address({}).url == "http://127.0.0.1:8080"
    assert key_of({}) == "mdk_local"


def test_a_folder_that_is_given_wins_over_the_environment(tmp_path: Path) -> None:
    other = data_folder(tmp_path / "other", url="http://127.0.0.1:9090", key="mdk_other")
    named = {"MEDIC_BASE_URL": "https://named.example", "MEDIC_API_KEY": "mdk_named"}
    assert find_address(named, data_dir=other).url == "http://127.0.0.1:9090"
    assert key_of(named, data_dir=other) == "mdk_other"


def test_the_key_of_a_folder_goes_to_its_own_server_only(tmp_path: Path) -> None:
    data_folder(tmp_path / ".medic")
    assert key_of({}, url="https://other.example") is None
    assert key_of({"MEDIC_BASE_URL": "https://other.example"}) is None
    assert key_of({}, url="http://127.0.0.1:8080/") == "mdk_local"


def test_a_key_may_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("mdk_filed\n")
    assert key_of({}, url="http://a.example", key=f"@{tmp_path / 'key'}") == "mdk_filed"
    assert key_of({"MEDIC_BASE_URL": "http://a.example", "MEDIC_API_KEY_FILE": "key"}) == "mdk_filed"
    with pytest.raises(Misconfigured, match="not both"):
        key_of({"MEDIC_BASE_URL": "http://a", "MEDIC_API_KEY_FILE": "key", "MEDIC_API_KEY": "mdk_x"})
    with pytest.raises(Misconfigured, match=r"--key: the file .* cannot be read"):
        key_of({}, url="http://a.example", key="@nowhere")


def test_without_any_server_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="MEDIC_BASE_URL"):
        find_address({})
    with pytest.raises(Misconfigured, match=r"no client\.json"):
        find_address({"MEDIC_BASE_URL": "http://a"}, data_dir=tmp_path)


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"url": "http://a"}', '"x"', '{"url": "b", "key_file": "k"}', "\xff"]
)
def test_a_damaged_client_file_matters_only_where_it_is_needed(tmp_path: Path, text: str) -> None:
    (tmp_path / ".medic").mkdir()
    (tmp_path / ".medic" / "client.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(Misconfigured, match="is damaged"):
        find_address({})
    with pytest.raises(Misconfigured, match="is damaged"):
        find_address({"MEDIC_BASE_URL": "http://a"}, data_dir=tmp_path / ".medic")
    assert find_address({"MEDIC_BASE_URL": "http://a"}) == Address("http://a")


@pytest.mark.parametrize(
    "url", ["ftp://a", "a.example", "http://", "http://a:99999", "http://[::1", "http://a?x=1", "http://a/#x",
            "http://a\r\nx", "http://a b", "http://user:hunter2@a.example", "http://user@a.example"]
)  # fmt: skip
def test_a_url_that_cannot_work_is_refused_without_being_shown(url: str) -> None:
    for environ, given in (({}, url), ({"MEDIC_BASE_URL": url}, None)):
        with pytest.raises(Misconfigured, match="server's URL") as refused:
            find_address(environ, url=given)
        assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("key", ["mdk_a b", "mdk_ä", "mdk_a\r\nX: y"])
def test_what_cannot_be_a_key_is_refused_and_no_key_is_printed(key: str) -> None:
    for environ in ({"MEDIC_API_KEY": key}, {}):
        with pytest.raises(Misconfigured, match="no key has") as refused:
            find_address(environ, url="http://a", key=None if environ else key)
        assert "mdk" not in str(refused.value)
    assert "mdk" not in f"{Address('http://a', Key('mdk_x'))} {Key('mdk_x')!r} {Key('mdk_x')}"


def test_an_empty_key_is_none(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    assert key_of({"MEDIC_API_KEY": " "}, url="http://a") is None
    assert key_of({}, url="http://a", key="") is None
    assert key_of({}, url="http://a", key="@empty") is None
