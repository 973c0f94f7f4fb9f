"""Bytes of tokens, and pieces in which characters cut over tokens are whole again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import byte_tokenizer

from monosemy.features.store.token_texts import TokenTexts, packed, token_bytes

BYTES = [bytes([b]) for b in range(256)] + [b"<eos>"]


def texts(tokens: list[bytes], special: tuple[int, ...] = ()) -> TokenTexts:
    return TokenTexts(*packed(tokens), np.isin(np.arange(len(tokens)), special))


def one_byte_a_token() -> TokenTexts:
    return texts(BYTES, (256,))


def test_a_byte_level_tokenizer_gives_every_byte_and_its_special_token():
    vocabulary = token_bytes(byte_tokenizer(), 300)
    ids = byte_tokenizer()("ü—\n x")["input_ids"]
    assert b"".join(vocabulary[i] for i in ids) == "ü—\n x".encode()
    assert vocabulary[256] == b"<eos>"
    assert vocabulary[257:] == [b""] * 43
    assert sorted(vocabulary[:256]) == [bytes([b]) for b in range(256)]


def test_sentence_piece_names_become_spaces_and_bytes():
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    names = ["<unk>", "▁the", "<0xE2>", "rest"]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    vocabulary = token_bytes(PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>"), 4)
    assert vocabulary == [b"<unk>", b" the", b"\xe2", b"rest"]


@given(st.text(max_size=30))
def test_text_cut_into_bytes_comes_back_character_by_character(text):
    token_texts = one_byte_a_token()
    pieces = token_texts.pieces(list(text.encode()))
    assert [piece.text for piece in pieces] == list(text)
    assert all(piece.stop - piece.start == len(piece.text.encode()) for piece in pieces)


@given(st.lists(st.integers(0, 256), max_size=40))
def test_pieces_cover_the_tokens_in_order_whatever_they_are(ids):
    token_texts = one_byte_a_token()
    at = 0
    for piece in token_texts.pieces(ids):
        assert piece.start == at < piece.stop
        assert piece.text
        at = piece.stop
    assert at == len(ids)


def test_special_tokens_and_broken_bytes_stand_alone():
    token_texts = one_byte_a_token()
    pieces = [(p.start, p.stop, p.text) for p in token_texts.pieces([0xE2, 256, 0x80, 97])]
    assert pieces == [(0, 1, "⟨E2⟩"), (1, 2, "<eos>"), (2, 3, "⟨80⟩"), (3, 4, "a")]
    assert token_texts.is_special(256)
    assert not token_texts.is_special(97)


def test_words_keep_their_own_piece_beside_a_cut_character():
    token_texts = texts([b" in", b"\xe2\x80", b"\x94 so", b"\xe2"])
    assert [p.text for p in token_texts.pieces([0, 1, 2, 0])] == [" in", "— so", " in"]
    assert [p.text for p in token_texts.pieces([3, 0])] == ["⟨E2⟩", " in"]
    assert token_texts.text(1) == "⟨E2⟩⟨80⟩"


def test_tokens_are_found_exact_first_then_by_beginning_then_inside():
    token_texts = texts([b"xJuly", b"Julian", b" July", b"july", b"", b"August"])
    assert token_texts.matching("july") == [2, 3, 0]
    assert token_texts.matching(" JUL") == [2, 3, 1, 0]
    assert token_texts.matching("  ") == []
    assert token_texts.matching("a", limit=1) == [5]


def test_a_token_outside_the_vocabulary_is_an_error():
    with pytest.raises(IndexError, match="token id 257 of 257"):
        one_byte_a_token().bytes(257)


def test_without_a_tokenizer_tokens_are_shown_as_their_numbers():
    assert [piece.text for piece in texts(token_bytes(None, 12)).pieces([3, 11, 0])] == [" 3", " 11", " 0"]
