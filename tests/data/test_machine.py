"""Tables on machines without a writable cache or without a network."""

from __future__ import annotations

import io

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants

from imgtf.data.config import DataConfig
from imgtf.data.source import open_source
from imgtf.errors import DataError
from imgtf.runtime import hub


@pytest.fixture
def parquet(tmp_path, noise):
    cells = []
    for seed in range(10):
        buffer = io.BytesIO()
        noise(8, 8, seed).save(buffer, "PNG")
        cells.append({"bytes": buffer.getvalue(), "path": None})
    pq.write_table(pa.table({"image": cells, "label": list(range(10))}), tmp_path / "d.parquet")
    return tmp_path / "d.parquet"


@pytest.mark.parametrize("cache", ["/dev/null/hf", "/proc/hf"])
def test_a_table_is_read_without_a_writable_cache(parquet, cache, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    train, held_out = open_source(DataConfig(data=str(parquet)))
    assert (len(train), len(held_out)) == (9, 1)
    assert train.image(0).size == (8, 8)


def test_a_hub_that_cannot_be_reached_is_named(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_unreachable", lambda url: "no answer in 3 s")
    with pytest.raises(DataError, match=r"some/name: .*the Hub cannot be reached \(no answer in 3 s\)"):
        open_source(DataConfig(data="some/name"))
