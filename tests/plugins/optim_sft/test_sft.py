"""Demonstrations become rows with the loss on the completion only; long rows are counted; packing keeps all."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from alignkit.batches import Row
from alignkit.data.store import RecordFile, write_records
from alignkit.errors import UserError
from alignkit.protocols import FitTask
from alignkit.records import Demonstration, Text
from alignkit_plugins.optim_pretrain.config import PretrainConfig
from alignkit_plugins.optim_pretrain.stage import Pretrain, blocks
from alignkit_plugins.optim_sft.config import SFTConfig
from alignkit_plugins.optim_sft.stage import SFT, encode, pack
from helpers.models import random_rows

SHORT = Demonstration(prompt="the film", completion=" won me over")
LONG = Demonstration(prompt="the film", completion=" is long" * 20)


def task(policy: Any, context: Any, records: list[Any], folder: Path) -> FitTask:
    path = folder / "data.jsonl"
    write_records(path, records)
    return FitTask(lambda: policy, None, RecordFile(path, type(records[0])), None, context)


def test_the_loss_is_on_the_completion_and_its_end_token(llama: Any) -> None:
    row = encode(llama, [SHORT], SFTConfig(), "x").rows[0]
    prompt = llama.encode_prompt("the film")
    assert list(row.ids) == [*prompt, *llama.encoder.text(" won me over"), llama.encoder.end_id]
    assert list(row.target) == [False] * len(prompt) + [True] * (len(row.ids) - len(prompt))
    assert row.ids[0] == 1  # <s> once, in front
    assert list(row.ids).count(1) == 1


def test_too_long_rows_are_dropped_and_counted(llama: Any) -> None:
    found = encode(llama, [SHORT, LONG, SHORT], SFTConfig(max_length=30), "x")
    assert (len(found.rows), found.dropped, found.cut) == (2, 1, 0)


def test_too_long_rows_are_cut_and_counted_and_lose_their_end_token(llama: Any) -> None:
    found = encode(llama, [SHORT, LONG], SFTConfig(max_length=30, too_long="truncate"), "x")
    assert (len(found.rows), found.dropped, found.cut) == (2, 0, 1)
    assert len(found.rows[1].ids) == 30
    assert found.rows[1].ids[-1] != llama.encoder.end_id


def test_a_row_whose_prompt_alone_is_too_long_is_dropped_not_kept_without_a_target(llama: Any) -> None:
    prompt = len(llama.encode_prompt(SHORT.prompt))
    found = encode(llama, [SHORT], SFTConfig(max_length=prompt, too_long="truncate"), "x")
    assert (len(found.rows), found.dropped, found.cut) == (0, 1, 0)


def test_error_names_the_row(llama: Any) -> None:
    with pytest.raises(UserError, match=r"data:2: \d+ tokens are more than max_length 30"):
        encode(llama, [SHORT, LONG], SFTConfig(max_length=30, too_long="error"), "data")


def test_if_nothing_fits_the_stage_says_so(llama: Any, context: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="all 2 rows are longer than max_length 10"):
        SFT(SFTConfig(max_length=10)).fit(task(llama, context, [LONG, LONG], tmp_path))


@pytest.mark.parametrize("packing", [False, True])
def test_fit_trains_saves_and_counts(llama: Any, context: Any, tmp_path: Path, packing: bool) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = SFTConfig(max_length=40, packing=packing, batch_size=2, lr=3e-3, epochs=3)
    summary = SFT(config).fit(task(llama, context, [SHORT, LONG, SHORT, SHORT], tmp_path))
    assert summary["demonstrations"] == 4
    assert summary["dropped_too_long"] == 1
    tokens = 3 * (len(llama.encoder.text(" won me over")) + 1)
    assert summary["tokens"] == 3 * tokens
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert AutoTokenizer.from_pretrained(tmp_path / "model").encode("the film") == llama.encode_prompt("the film")
    ids = torch.tensor([llama.encode_prompt("the film")])
    llama.module.eval()
    assert torch.allclose(plain(ids).logits, llama.module(ids).logits, atol=1e-5)


def test_packing_keeps_every_token_target_and_position(llama: Any) -> None:
    rows = random_rows(300, [5, 17, 3, 9, 30, 4, 12, 40, 2])
    packed = pack(rows, 40)
    assert all(len(r.ids) <= 40 for r in packed)
    pieces = []
    for row in packed:
        assert row.positions is not None
        starts = [n for n, p in enumerate(row.positions) if p == 0] + [len(row.ids)]
        for a, b in pairwise(starts):
            assert list(row.positions[a:b]) == list(range(b - a))
            pieces.append(Row(row.ids[a:b], row.target[a:b]))
    assert sorted(pieces) == sorted(Row(r.ids, r.target) for r in rows)


def test_pretraining_blocks_hold_all_texts_with_start_and_end(llama: Any, context: Any, tmp_path: Path) -> None:
    texts = [Text(text="the quiet film"), Text(text="a warm ending")]
    rows = blocks(llama, texts, 8)
    joined = [i for r in rows for i in r.ids]
    expected = [i for t in texts for i in [1, *llama.encoder.text(t.text), 2]]
    assert joined == expected or joined == expected[:-1]  # one token alone predicts nothing
    assert all(list(r.target) == [False] + [True] * (len(r.ids) - 1) for r in rows)
    config = PretrainConfig(block_length=8, batch_size=2)
    assert Pretrain(config).fit(task(llama, context, texts, tmp_path))["blocks"] == len(rows)
