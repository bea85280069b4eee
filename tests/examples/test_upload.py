"""The example of uploads and downloads."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.upload import client as example
from examples.upload import server as files
from rap import Client, InvalidArgument, NotFound
from rap.testing import TestClient
from tests.loopback import eventually


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(files, "FOLDER", tmp_path / "stored")
    return tmp_path / "stored"


def content(size: int) -> bytes:
    return hashlib.shake_128(b"content").digest(size)


def store(path: Path, size: int) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content(size))


async def test_a_file_goes_there_and_back_and_both_show_the_progress(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    original, copy = tmp_path / "tea.bin", tmp_path / "copy.bin"
    original.write_bytes(content(3 * example.PIECE + 1))
    async with TestClient(files.server, client=example.client):
        await example.put(original)
        assert (folder / "tea.bin").read_bytes() == original.read_bytes()
        shown = capsys.readouterr().out
        assert shown.count("\r") == 4
        assert shown.endswith("\rtea.bin: 786,433 of 786,433 bytes\n")

        await example.get("tea.bin", copy)
        assert copy.read_bytes() == original.read_bytes()
        assert capsys.readouterr().out == shown


async def test_a_download_goes_on_where_it_stopped(tmp_path: Path, folder: Path) -> None:
    store(folder / "tea.bin", 1000)
    copy = tmp_path / "copy.bin"
    store(copy, 400)
    async with TestClient(files.server, client=example.client):
        assert len(b"".join([piece async for piece in example.files.get("tea.bin", 400)])) == 600
        await example.get("tea.bin", copy)
        await example.get("tea.bin", copy)  # it is all there
    assert copy.read_bytes() == content(1000)


@pytest.mark.parametrize("sent", [b"", b"12", b"1234"])
async def test_a_file_of_another_size_than_told_is_not_stored(folder: Path, sent: bytes) -> None:
    async with TestClient(files.server, client=example.client):
        with pytest.raises(InvalidArgument, match=f"should have 3 bytes, got {len(sent)}"):
            async for _ in example.files.put("tea.bin", 3, [sent] if sent else []):
                pass
    assert os.listdir(folder) == []


async def test_an_upload_that_breaks_off_leaves_nothing(folder: Path) -> None:
    def breaking() -> Iterator[bytes]:
        yield b"1"
        raise OSError("the disk of the client")

    async with TestClient(files.server, client=example.client):
        with pytest.raises(OSError, match="the disk of the client"):
            async for _ in example.files.put("tea.bin", 3, breaking()):
                pass
        await eventually(lambda: not folder.exists() or os.listdir(folder) == [])


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "../tea", "/etc/passwd", "a\0b"])
async def test_only_names_of_files_in_the_folder_are_taken(name: str) -> None:
    async with TestClient(files.server) as client:
        for function, arguments in (("size", ()), ("get", (0,)), ("put", (1, [b"1"]))):
            with pytest.raises(InvalidArgument, match="not a file name"):
                await outcome(client, function, name, *arguments)


async def test_a_file_that_is_not_there_is_not_found() -> None:
    async with TestClient(files.server, client=example.client):
        with pytest.raises(NotFound, match="there is no file 'tea'"):
            await example.files.size("tea")


async def test_more_than_the_most_is_refused_at_once() -> None:
    async with TestClient(files.server) as client:
        with pytest.raises(InvalidArgument, match="at most 1073741824 are stored"):
            await outcome(client, "put", "tea", files.MAX_SIZE + 1, [])


async def outcome(client: Client, function: str, *arguments: Any) -> None:
    """Make a call of any type, and read it to its end."""
    if function == "size":
        await client.raw_call(function, *arguments)
    elif function == "get":
        async for _ in client.iterator_call(function, *arguments):
            pass
    else:
        async for _ in client.bind(example.Files, group="default").put(*arguments):
            pass
