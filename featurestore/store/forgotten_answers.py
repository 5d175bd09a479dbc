"""Logged answers to questions about a key that is forgotten.

Time: none; every answer about the key is meant, whenever it was given. The list of forgotten keys holds
digests alone, so a logged key is recognised by its own.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.log.request_files import read_answers, rewrite_answers
from featurestore.store.forgotten import DIGEST_KEY, digest, key_texts
from featurestore.store.records import ForgottenKey
from featurestore.store.snapshot import Snapshot

Keys = frozenset[tuple[tuple[str, ...], str]]
"""(sorted key columns, digest) of forgotten keys."""


def forgotten_keys(snapshot: Snapshot) -> Keys:
    """All keys that are forgotten."""
    return keys_of(snapshot.forgotten())


def keys_of(keys: Collection[ForgottenKey]) -> Keys:
    return frozenset((one.columns, one.digest) for one in keys)


def digest_key(snapshot: Snapshot) -> bytes:
    """What a store's digests are made with."""
    return bytes.fromhex(snapshot.meta()[DIGEST_KEY])


def forget_answers(file: Path, keys: Keys, secret: bytes) -> int:
    """Rewrite a file of the request log without answers about ``keys``; returns how many there were."""
    answers = read_answers(file)
    about = answers_about(answers, keys, secret)
    found = int(about.sum())
    if found:
        rewrite_answers(file, answers.filter(pa.array(~about)))
    return found


def answers_about(answers: pa.Table, keys: Keys, secret: bytes) -> NDArray[np.bool_]:
    """Which rows of a request log are about one of ``keys``; bool[rows]."""
    about = np.zeros(answers.num_rows, np.bool_)
    columns = {names for names, _ in keys}
    if not columns or not answers.num_rows:
        return about
    both = pc.binary_join_element_wise(
        answers.column("keys"), answers.column("key_types"), "\n"
    ).combine_chunks()
    encoded = pc.dictionary_encode(both)
    forgotten = np.array([_is_one_of(text, keys, columns, secret) for text in encoded.dictionary.to_pylist()])
    made: NDArray[np.bool_] = forgotten[encoded.indices.to_numpy(zero_copy_only=False)]
    return made


def _is_one_of(text: str, keys: Keys, columns: set[tuple[str, ...]], secret: bytes) -> bool:
    values, types = map(json.loads, text.split("\n"))
    names = tuple(sorted(values))
    if names not in columns or any(values[name] is None for name in names):
        return False
    texts = [_text(values[name], types[name]) for name in names]
    return (names, digest(secret, names, texts)) in keys


def _text(face: object, kind: str) -> str:
    """The text that stands for a key's value, as ``forgotten.key_texts`` has it, from its JSON face."""
    value: object = face
    if kind.startswith("decimal"):
        value = Decimal(str(face))
    elif kind == "binary":
        value = base64.b64decode(str(face))
    return key_texts(pa.array([value]))[0]
