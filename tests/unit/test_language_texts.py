"""Where texts come from, and how they become contexts."""

from __future__ import annotations

import gzip
import json

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saebook.errors import ConfigError, DataError, EnvironmentProblem, StoreError
from saebook.language import (
    DocumentSplits,
    LanguageModel,
    byte_tokenizer,
    load_text,
    text_source,
    token_batches,
)


class Words(torch.nn.Module):
    """Stands for a model: tokens need its settings alone."""

    class config:
        max_position_embeddings = 64


LM = LanguageModel(Words(), byte_tokenizer(), "words")


def texts_of(source, start: int = 0) -> list[str]:
    return [document.text for document in text_source(source).documents(start)]


def test_shipped_collections_are_whole():
    moby, union = load_text("moby_dick"), load_text("state_of_the_union")
    assert (len(moby), len(union)) == (136, 47)
    assert moby[-1].endswith("found another orphan.")
    assert union[0].startswith("Fellow-Citizens of the Senate")
    assert all(text == text.strip() and "\ufffd" not in text for text in moby + union)
    with pytest.raises(ConfigError, match="no shipped text 'hamlet'"):
        load_text("hamlet")


def write_all_kinds(folder, texts: list[str]) -> list:
    lines = "".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(texts))
    (folder / "a.jsonl").write_text(lines, encoding="utf-8")
    with gzip.open(folder / "b.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(lines)
    table = pd.DataFrame({"text": texts})
    table.to_parquet(folder / "c.parquet", row_group_size=2)
    return [folder / name for name in ("a.jsonl", "b.jsonl.gz", "c.parquet")]


def test_every_kind_of_source_gives_the_same_documents_from_any_on(tmp_path):
    texts = ["one", "zwei drei", "", "größer\nthan", "five"]
    records = datasets.Dataset.from_list([{"text": text, "meta": 1} for text in texts])
    sources = [texts, *write_all_kinds(tmp_path, texts), records, records.to_iterable_dataset()]
    for source in sources:
        for start in (0, 2, 4, 5):
            assert texts_of(source, start) == texts[start:]
        numbers = [document.number for document in text_source(source).documents(3)]
        assert numbers == [3, 4]


def test_a_text_file_is_divided_at_blank_lines(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("\n\nI\n\nCall me.\n\n\nII\nSome years.\n\n\n\n\nIII\n", encoding="utf-8")
    assert texts_of(path) == ["I\n\nCall me.", "II\nSome years.", "III"]
    assert texts_of(path, 2) == ["III"]


def test_a_line_without_end_is_divided_between_characters(tmp_path, monkeypatch):
    monkeypatch.setattr("saebook.language.text_files.LONGEST", 10)
    path = tmp_path / "long.txt"
    path.write_text("ä€𝄞" * 40, encoding="utf-8")
    documents = list(text_source(path).documents())
    assert "".join(document.text for document in documents) == "ä€𝄞" * 40
    assert not any(document.broken_utf8 for document in documents)
    assert max(len(document.text.encode()) for document in documents) <= 14


def test_a_folder_is_read_file_by_file(tmp_path):
    (tmp_path / "b.txt").write_text("two")
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "picture.png").write_bytes(b"\x89")
    assert texts_of(tmp_path) == ["one", "two"]
    assert texts_of(tmp_path, 1) == ["two"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"holds no \.txt"):
        text_source(tmp_path / "empty")


def test_content_stands_in_for_text_and_a_record_without_either_is_refused():
    stream = datasets.Dataset.from_list([{"content": "words"}]).to_iterable_dataset()
    assert texts_of(stream) == ["words"]
    other = datasets.Dataset.from_list([{"body": "words"}]).to_iterable_dataset()
    with pytest.raises(
        DataError, match=r"record 0 of .* none of the fields text, content \(it has: body"
    ):
        texts_of(other)
    assert texts_of(text_source(other, fields=("body",))) == ["words"]
    both = datasets.Dataset.from_list(
        [{"text": None, "content": "b"}, {"text": "a", "content": "b"}]
    )
    assert texts_of(both) == ["b", "a"]
    empty = datasets.Dataset.from_list([{"text": None}])
    assert texts_of(empty) == [""]


def test_parquet_without_the_field_is_refused(tmp_path):
    pd.DataFrame({"body": ["x"]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet has none of the fields"):
        texts_of(tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="not readable as Parquet"):
        texts_of(tmp_path / "b.parquet")


def test_broken_utf8_is_replaced_and_marked(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"fine\n\n\nbr\xffken\n")
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "fine \xef\xbf\xbd"}\n{"text": "br\xffken"}\n')
    values = pa.Array.from_buffers(
        pa.string(), 2, pa.array([b"fine", b"br\xffken"], pa.binary()).buffers()
    )
    pq.write_table(pa.table({"text": values}), tmp_path / "c.parquet")
    for name in ("a.txt", "b.jsonl", "c.parquet"):
        found = list(text_source(tmp_path / name).documents())
        assert [document.broken_utf8 for document in found] == [False, True]
        assert found[1].text == "br\ufffdken"


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n\n{"text": \n')
    with pytest.raises(DataError, match=r"line 3 of a\.jsonl is no JSON"):
        texts_of(path)
    path.write_text('{"text": 3}\n')
    with pytest.raises(DataError, match=r"text of line 1 of a\.jsonl is a int"):
        texts_of(path)
    path.write_text('["a"]\n')
    with pytest.raises(DataError, match=r"line 1 of a\.jsonl is a list"):
        texts_of(path)


def test_what_is_no_source_is_refused(monkeypatch):
    with pytest.raises(ConfigError, match="no file or folder here"):
        text_source("It was a dark and stormy night")
    with pytest.raises(ConfigError, match="generator"):
        text_source(text for text in ["a"])
    with pytest.raises(DataError, match="document 1 is a int"):
        text_source(["a", 2])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(EnvironmentProblem, match="hub can't be reached; give a text file"):
        text_source("cerebras/SlimPajama-627B")


def all_batches(texts, **settings) -> list:
    return list(token_batches(LM, texts, **settings))


def test_contexts_hold_one_document_and_positions_go_on():
    first, second = all_batches(["abcdefghij", " ", "xyz"], context=4, batch_size=3)
    decoded = LM.tokenizer.decode(first.input_ids[1])
    assert decoded == "efgh"
    assert first.position.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, -1, -1]]
    assert second.document.tolist() == [[2, 2, 2]]
    assert first.attention_mask.sum(dim=1).tolist() == [4, 4, 2]


def test_what_was_read_is_counted():
    batches = token_batches(LM, ["abcdefghij", "", "\n ", "xyz", "wxyz"], context=4)
    list(batches)
    assert batches.counts == {
        "documents": 5, "empty": 2, "shorter_than_context": 1, "cut": 1, "shortened": 0, "broken_utf8": 0,
        "contexts": 5, "tokens": 17,
    }  # fmt: skip


def test_the_first_contexts_of_each_document_can_be_taken_alone():
    batches = token_batches(
        LM, ["abcdefghij", "xyz"], context=4, batch_size=9, contexts_per_document=2
    )
    (batch,) = batches
    assert batch.document[:, 0].tolist() == [0, 0, 1]
    assert (batches.counts["shortened"], batches.counts["tokens"]) == (1, 11)
    one = token_batches(LM, ["abcdefghij", "xyz"], context=4, batch_size=1, contexts_per_document=2)
    next(one), next(one)
    (rest,) = token_batches(
        LM, ["abcdefghij", "xyz"], context=4, contexts_per_document=2, start=one.cursor
    )
    assert rest.document.tolist() == [[1, 1, 1]]


def test_a_start_token_is_put_in_front_and_marked():
    (batch,) = all_batches(["abcde"], context=4, prepend_bos=False)
    assert not batch.special.any()
    tokenizer = byte_tokenizer()
    tokenizer.bos_token = tokenizer.eos_token
    lm = LanguageModel(Words(), tokenizer, "words")
    (batch,) = token_batches(lm, ["abcde"], context=4, prepend_bos=True)
    assert batch.input_ids[:, 0].tolist() == [tokenizer.bos_token_id] * 2
    assert batch.position.tolist() == [[-1, 0, 1, 2], [-1, 3, 4, -1]]
    assert batch.special.tolist() == [[True, False, False, False]] * 2
    with pytest.raises(ConfigError, match="tokenizer has no start token"):
        token_batches(LM, ["a"], context=4, prepend_bos=True)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.text(max_size=30), max_size=8),
    st.integers(2, 7),
    st.integers(1, 4),
    st.integers(0, 6),
)
def test_going_on_from_any_batch_gives_the_same_batches(texts, context, batch_size, stop):
    whole = token_batches(LM, texts, context=context, batch_size=batch_size)
    first = token_batches(LM, texts, context=context, batch_size=batch_size)
    expected, taken = list(whole), []
    for _ in range(stop):
        batch = next(first, None)
        taken += [] if batch is None else [batch]
    rest = token_batches(
        LM, texts, context=context, batch_size=batch_size, start=first.cursor, counts=first.counts
    )
    taken += list(rest)
    assert len(taken) == len(expected)
    for one, other in zip(taken, expected, strict=True):
        for name in ("input_ids", "attention_mask", "document", "position", "special"):
            assert torch.equal(getattr(one, name), getattr(other, name))
    assert rest.counts == whole.counts
    tokens = sum(len(LM.tokenizer(text)["input_ids"]) for text in texts if text.strip())
    assert whole.counts["tokens"] == tokens


def test_going_on_in_a_changed_text_is_refused():
    batches = token_batches(LM, ["abcdefgh", "x"], context=4, batch_size=1)
    next(batches)
    with pytest.raises(StoreError, match=r"document 0 of .* is another text"):
        list(token_batches(LM, ["abcdXfgh", "x"], context=4, batch_size=1, start=batches.cursor))


def test_wrong_settings_are_refused():
    with pytest.raises(ConfigError, match="context=1"):
        token_batches(LM, ["a"], context=1)
    with pytest.raises(ConfigError, match="reads at most 64 tokens"):
        token_batches(LM, ["a"], context=65)
    with pytest.raises(ConfigError, match="no tokenizer"):
        token_batches(LanguageModel(Words(), None, "words"), ["a"], context=4)


@pytest.mark.parametrize("fractions", [(0.7, 0.15, 0.15), (0.98, 0.01, 0.01), (0.5, 0.0, 0.5)])
def test_documents_are_shared_out_as_asked(fractions):
    splits = DocumentSplits(fractions, seed=3)
    names = [splits.of(number) for number in range(1000)]
    shares = [names.count(part) / 1000 for part in ("train", "validation", "test")]
    np.testing.assert_allclose(shares, fractions, atol=1e-9)
    # Whoever goes on in the middle says the same.
    assert [DocumentSplits(fractions, seed=3).of(n) for n in (0, 371, 999)] == [
        names[n] for n in (0, 371, 999)
    ]
    assert names != [DocumentSplits(fractions, seed=4).of(n) for n in range(1000)]


def test_fractions_must_be_shares():
    with pytest.raises(ConfigError, match="sum to 1"):
        DocumentSplits((0.7, 0.2, 0.2))
