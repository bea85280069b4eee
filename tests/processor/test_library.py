"""The libraries that encrypt, against published vectors and against each other."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rap.call import Side
from rap.processor.encryption import library
from rap.processor.encryption.library import Library, select_library
from rap.processor.encryption.sealing import SessionKeys

LIBRARIES = [library.openssl, library.pycryptodome]
every = pytest.mark.parametrize("load", LIBRARIES, ids=["openssl", "pycryptodome"])

# Of "The Galois/Counter Mode of Operation", McGrew and Viega, the specification that was submitted
# to NIST, appendix B: key, nonce, associated data, content, encrypted content, tag. Cases 1 to 4
# have keys of 128 bits, 7 to 10 of 192, 13 to 16 of 256.
_KEY = "feffe9928665731c6d6a8f9467308308"
_NONCE = "cafebabefacedbaddecaf888"
_CONTENT = (
    "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525"
    "b16aedf5aa0de657ba637b391aafd255"
)
_BESIDE = "feedfacedeadbeeffeedfacedeadbeefabaddad2"
VECTORS = {
    1: ("0" * 32, "0" * 24, "", "", "", "58e2fccefa7e3061367f1d57a4e7455a"),
    2: (
        *("0" * 32, "0" * 24, "", "0" * 32),
        *("0388dace60b6a392f328c2b971b2fe78", "ab6e47d42cec13bdf53a67b21257bddf"),
    ),
    3: (
        *(_KEY, _NONCE, "", _CONTENT),
        "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5aac84aa05"
        "1ba30b396a0aac973d58e091473f5985",
        "4d5c2af327cd64a62cf35abd2ba6fab4",
    ),
    4: (
        *(_KEY, _NONCE, _BESIDE, _CONTENT[:-8]),
        "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5aac84aa05"
        "1ba30b396a0aac973d58e091",
        "5bc94fbc3221a5db94fae95ae7121a47",
    ),
    7: ("0" * 48, "0" * 24, "", "", "", "cd33b28ac773f74ba00ed1f312572435"),
    8: (
        *("0" * 48, "0" * 24, "", "0" * 32),
        *("98e7247c07f0fe411c267e4384b0f600", "2ff58d80033927ab8ef4d4587514f0fb"),
    ),
    10: (
        *(_KEY + _KEY[:16], _NONCE, _BESIDE, _CONTENT[:-8]),
        "3980ca0b3c00e841eb06fac4872a2757859e1ceaa6efd984628593b40ca1e19c7d773d00c144c525ac619d18c84a3f47"
        "18e2448b2fe324d9ccda2710",
        "2519498e80f1478f37ba55bd6d27618c",
    ),
    13: ("0" * 64, "0" * 24, "", "", "", "530f8afbc74536b9a963b4f1c4cb738b"),
    14: (
        *("0" * 64, "0" * 24, "", "0" * 32),
        *("cea7403d4d606b6e074ec5d3baf39d18", "d0d1c8a799996bf0265b98b5d48ab919"),
    ),
    16: (
        *(_KEY + _KEY, _NONCE, _BESIDE, _CONTENT[:-8]),
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838"
        "c5f61e6393ba7a0abcc9f662",
        "76fc6ece0f4e1768cddf8853bb2d551b",
    ),
}


@every
@pytest.mark.parametrize("case", VECTORS)
def test_a_cipher_gives_what_the_specification_of_gcm_gives(
    load: Callable[[], Library], case: int
) -> None:
    key, nonce, beside, content, sealed, tag = map(bytes.fromhex, VECTORS[case])
    cipher = load().cipher(key)
    assert cipher.seal(nonce, beside, content) == sealed + tag
    assert cipher.open(nonce, beside, sealed + tag) == content
    assert cipher.open(nonce, beside, memoryview(sealed + tag)) == content
    assert cipher.seal(nonce, beside, memoryview(content)) == sealed + tag


@every
def test_a_key_is_derived_as_rfc_5869_says(load: Callable[[], Library]) -> None:
    """Its first three vectors ask for longer keys; the beginning is the same."""
    salt, info = bytes(range(13)), bytes(range(0xF0, 0xFA))
    derived = load().derive(b"\x0b" * 22, salt, info)
    assert derived.hex() == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a"
    key, salt, info = bytes(range(80)), bytes(range(0x60, 0xB0)), bytes(range(0xB0, 0x100))
    expected = (
        "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
        "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f"
    )
    assert load().derive(key, salt, info).hex().startswith(expected)


@every
def test_nothing_that_was_changed_is_opened(load: Callable[[], Library]) -> None:
    cipher, nonce = load().cipher(b"k" * 32), bytes(12)
    sealed = cipher.seal(nonce, b"beside", b"content")
    assert cipher.open(nonce, b"beside", sealed) == b"content"
    for bit in range(len(sealed) * 8):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError):  # noqa: PT011  # the texts of two libraries
            cipher.open(nonce, b"beside", bytes(changed))
    for size in range(len(sealed)):
        with pytest.raises(ValueError):  # noqa: PT011  # as above
            cipher.open(nonce, b"beside", sealed[:size])
    for wrong_nonce, beside in ((b"\1" * 12, b"beside"), (nonce, b"besides"), (nonce, b"")):
        with pytest.raises(ValueError):  # noqa: PT011  # as above
            cipher.open(wrong_nonce, beside, sealed)


@given(
    st.sampled_from([16, 24, 32]).flatmap(lambda n: st.binary(min_size=n, max_size=n)),
    st.binary(min_size=8, max_size=64),
    st.lists(st.tuples(st.binary(max_size=64), st.binary(max_size=300)), min_size=1, max_size=5),
)
def test_each_library_opens_what_the_other_has_sealed(
    key: bytes, binding: bytes, messages: list[tuple[bytes, bytes]]
) -> None:
    for one, other in (LIBRARIES, LIBRARIES[::-1]):
        client = SessionKeys(key, binding, Side.CLIENT, one())
        server = SessionKeys(key, binding, Side.SERVER, other())
        for beside, content in messages:
            assert server.open(beside, client.seal(beside, content)) == content
            assert client.open(beside, server.seal(beside, content)) == content


def test_openssl_is_used_if_it_is_installed_and_pycryptodome_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert select_library() == library.openssl()
    select_library.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "rap.processor.encryption.openssl", None)
    try:
        assert select_library() == library.pycryptodome()
    finally:
        select_library.cache_clear()
