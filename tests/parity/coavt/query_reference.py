"""The vectors of LAVIS's query former, and a query encoder with its weights."""

import json
import os
from pathlib import Path

import numpy as np
import torch
from torch import nn

from clip4vla.models.coavt.bert_names import our_name
from clip4vla.models.coavt.heads import LanguageHead, MatchingHead
from clip4vla.models.coavt.query_encoder import QueryEncoder
from clip4vla.models.coavt.sizes import Sizes

STORED = Path(__file__).parent / "reference"
FOLDER = Path(os.environ.get("COAVT_REFERENCE", STORED))
FILE = "query_encoder.npz"
SMOOTHING = 0.1
LAYOUT = json.loads((FOLDER / "layout.json").read_text())["files"][FILE]
CONFIG, TOLERANCE = LAYOUT["config"], LAYOUT["suggested tolerance"]


def read_vectors():
    """Every array of the file by its name."""
    with np.load(FOLDER / FILE, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


class Verbal(nn.Module):
    """The verbal parts of a CoAVT under their names in it, without dropout."""

    def __init__(self):
        super().__init__()
        sizes = Sizes(
            width=CONFIG["encoder_width"],
            heads=1,
            own_layers=1,
            query_width=CONFIG["width"],
            query_layers=CONFIG["layers"],
            query_heads=CONFIG["heads"],
            query_ffn=CONFIG["ffn"],
            vocabulary=CONFIG["vocab"],
            joint_width=CONFIG["joint_width"],
            text_positions=CONFIG["positions"],
            queries=CONFIG["queries"],
            cross_every=CONFIG["cross_every"],
        )
        self.query = QueryEncoder(sizes, dropout=0.0)
        self.query_proj = nn.Linear(sizes.query_width, sizes.joint_width)
        self.text_proj = nn.Linear(sizes.query_width, sizes.joint_width)
        self.matching = MatchingHead(sizes.query_width)
        self.language = LanguageHead(sizes.query_width, sizes.vocabulary)
        self.temperature = nn.Parameter(torch.zeros(()))


def build(vectors, dtype):
    """The model with the weights of the file, each of which is used."""
    tensors = {
        our_name(name.removeprefix("param/")): torch.from_numpy(array).to(dtype)
        for name, array in vectors.items()
        if name.startswith("param/")
    }
    tensors["query.queries"] = tensors["query.queries"][0]
    model = Verbal().to(dtype)
    model.load_state_dict(tensors, strict=True)
    return model
