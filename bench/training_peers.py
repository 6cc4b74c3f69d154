"""One run of a peer of `bench.training`, in a process of its own: plain PyTorch, or FuxiCTR with its own loader.

    python -m bench.training_peers FuxiCTR FOLDER --epochs 3 --workers 0 --packages DIR

FOLDER holds shape.json and rows.npz, which `bench.training` writes. Prints one JSON object: rows per second of every
epoch, validation, checkpoints and start-up left out.
"""

import argparse
import itertools
import json
import sys
import time
from collections import OrderedDict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

LR = 0.001


@dataclass(frozen=True)
class Shape:
    """A model and its rows: DCNv2 with `cross` full layers if there are any, then an MLP down to one logit.

    sizes: rows of each categorical field's table. units: of the MLP, with dropout after each layer.
    """

    name: str
    numeric: int
    sizes: list[int]
    dim: int
    cross: int
    units: list[int]
    dropout: float
    batch: int
    rows: int

    @property
    def fields(self) -> list[str]:
        """Names of the categorical columns."""
        return [f"field_{i}" for i in range(len(self.sizes))]

    @property
    def numbers(self) -> list[str]:
        """Names of the numeric columns."""
        return [f"number_{i}" for i in range(self.numeric)]

    @property
    def width(self) -> int:
        """Inputs of the first layer: a vector for each column."""
        return self.dim * (self.numeric + len(self.sizes))

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of every matrix that a row is multiplied with, in order."""
        widths = [self.width, *self.units, 1]
        return [(self.width, self.width)] * self.cross + list(itertools.pairwise(widths))

    @staticmethod
    def load(folder: Path) -> "Shape":
        return Shape(**json.loads((folder / "shape.json").read_text()))

    def save(self, folder: Path) -> None:
        (folder / "shape.json").write_text(json.dumps(asdict(self)) + "\n")


class Cross(nn.Module):
    """DCNv2's full cross layers (arXiv 2008.13535): x <- x0 * (W x + b) + x."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))

    def forward(self, x0: Tensor) -> Tensor:
        x = x0
        for layer in self.layers:
            x = x0 * layer(x) + x
        return x


class Plain(nn.Module):
    """The model as people write it in PyTorch: an nn.Embedding for each field, a vector for each number."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.randn(shape.numeric, shape.dim) / shape.dim**0.5)
        self.tables = nn.ModuleList(nn.Embedding(size, shape.dim) for size in shape.sizes)
        width = shape.width
        layers: list[nn.Module] = [Cross(width, shape.cross)] if shape.cross else []
        for units in shape.units:
            layers += [nn.Linear(width, units), nn.ReLU(), nn.Dropout(shape.dropout)]
            width = units
        self.net = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, numbers: Tensor, ids: Tensor) -> Tensor:
        """numbers [B, numeric], ids [B, fields] -> logits [B]."""
        scaled = (numbers.unsqueeze(2) * self.vectors).flatten(1)
        x = torch.cat([scaled, *(table(ids[:, i]) for i, table in enumerate(self.tables))], dim=1)
        logits: Tensor = self.net(x).squeeze(1)
        return logits


def plain(shape: Shape, folder: Path, epochs: int, workers: int) -> list[float]:
    """Seconds of each epoch: a shuffling DataLoader over tensors, Adam over everything."""
    rows = np.load(folder / "rows.npz")
    numbers = torch.from_numpy(np.stack([rows[name] for name in shape.numbers], axis=1))
    ids = torch.from_numpy(np.stack([rows[name] for name in shape.fields], axis=1))
    data = TensorDataset(numbers, ids, torch.from_numpy(rows["label"].astype(np.float32)))
    loader = DataLoader(data, batch_size=shape.batch, shuffle=True, num_workers=workers)
    model = Plain(shape)
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    criterion = nn.BCEWithLogitsLoss()
    seconds = []
    for _ in range(epochs):
        started = time.perf_counter()
        total = 0.0
        for batch_numbers, batch_ids, labels in loader:
            optimizer.zero_grad()
            loss = criterion(model(batch_numbers, batch_ids), labels)
            loss.backward()
            optimizer.step()
            total += loss.item()
        seconds.append(time.perf_counter() - started)
    return seconds


def fuxictr(shape: Shape, folder: Path, epochs: int, workers: int, regulariser: float | None = None) -> list[float]:
    """Seconds of each epoch: FuxiCTR's layers, training loop (Adam, clipped gradients) and loader of .npz files.

    regulariser: its `embedding_regularizer`, λ/2 of the squared norm of all tables.
    """
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.dataloaders.npz_dataloader import NpzDataLoader
    from fuxictr.pytorch.layers import CrossNetV2, FeatureEmbedding, MLP_Block
    from fuxictr.pytorch.models import BaseModel

    features = FeatureMap("bench", str(folder))
    features.features = OrderedDict((name, {"source": "", "type": "numeric"}) for name in shape.numbers)
    for name, size in zip(shape.fields, shape.sizes, strict=True):
        features.features[name] = {"source": "", "type": "categorical", "vocab_size": size}
    features.labels = ["label"]
    features.num_fields, features.default_emb_dim = shape.numeric + len(shape.sizes), shape.dim
    features.set_column_index()

    class Model(BaseModel):  # type: ignore[misc]
        def __init__(self) -> None:
            settings = {"model_root": str(folder / "fuxictr"), "metrics": ["AUC"], "verbose": 0}
            super().__init__(features, embedding_regularizer=regulariser, **settings)
            width = features.sum_emb_out_dim()
            self.embedding = FeatureEmbedding(features, shape.dim)
            self.cross = CrossNetV2(width, shape.cross) if shape.cross else nn.Identity()
            ends = {"output_dim": 1, "output_activation": self.output_activation}
            self.mlp = MLP_Block(width, shape.units, dropout_rates=shape.dropout, **ends)
            self.compile("adam", "binary_crossentropy", LR)
            self.reset_parameters()
            self.model_to_device()

        def forward(self, inputs: Any) -> dict[str, Tensor]:
            x = self.embedding(self.get_inputs(inputs)).flatten(start_dim=1)
            return {"y_pred": self.mlp(self.cross(x))}

        def eval_step(self) -> None:
            """Training alone is measured."""

    loader = NpzDataLoader(
        features, str(folder / "rows.npz"), batch_size=shape.batch, shuffle=True, num_workers=workers
    )
    seconds = []

    class Timed(Model):
        def train_epoch(self, data_generator: Any) -> None:
            started = time.perf_counter()
            super().train_epoch(data_generator)
            seconds.append(time.perf_counter() - started)

        def load_weights(self, checkpoint: str) -> None:
            """Nothing was saved, as nothing was evaluated."""

    Timed().fit(loader, epochs=epochs)
    return seconds


def fuxictr_published(shape: Shape, folder: Path, epochs: int, workers: int) -> list[float]:
    """FuxiCTR with the regulariser of the published configurations."""
    return fuxictr(shape, folder, epochs, workers, 1e-5)


PEERS = {"PyTorch": plain, "FuxiCTR": fuxictr, "FuxiCTR regularised": fuxictr_published}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=list(PEERS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--workers", type=int, default=0, help="processes that load data")
    parser.add_argument("--packages", type=Path, help="folder of packages that are not installed elsewhere")
    arguments = parser.parse_args()
    if arguments.packages:
        sys.path.append(str(arguments.packages))  # last: what is installed as well comes from there
    shape = Shape.load(arguments.folder)
    seconds = PEERS[arguments.peer](shape, arguments.folder, arguments.epochs, arguments.workers)
    print(json.dumps({"rows_per_second": [shape.rows / each for each in seconds]}))


if __name__ == "__main__":
    main()
