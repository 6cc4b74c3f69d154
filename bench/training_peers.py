"""One run of a peer of `bench.training`, in a process of its own: plain PyTorch, or FuxiCTR with its own loader.

    python -m bench.training_peers FuxiCTR FOLDER --epochs 3 --workers 0 --packages DIR

FOLDER holds shape.json and rows.npz, which `bench.training` writes. Prints one JSON object: rows per second of every
epoch, validation, checkpoints and start-up left out.
"""

import argparse
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

    sizes: of each categorical field's table. units: of the MLP.
    """

    name: str
    sizes: list[int]
    dim: int
    cross: int
    units: list[int]
    batch: int
    rows: int

    @property
    def fields(self) -> list[str]:
        """Names of the categorical columns."""
        return [f"field_{i}" for i in range(len(self.sizes))]

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
    """The model as people write it in PyTorch: an nn.Embedding for each field."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size, shape.dim) for size in shape.sizes)
        width = shape.dim * len(shape.sizes)
        layers: list[nn.Module] = [Cross(width, shape.cross)] if shape.cross else []
        for units in shape.units:
            layers += [nn.Linear(width, units), nn.ReLU()]
            width = units
        self.net = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, ids: Tensor) -> Tensor:
        """ids [B, fields] -> logits [B]."""
        x = torch.cat([table(ids[:, i]) for i, table in enumerate(self.tables)], dim=1)
        logits: Tensor = self.net(x).squeeze(1)
        return logits


def plain(shape: Shape, folder: Path, epochs: int, workers: int) -> list[float]:
    """Seconds of each epoch: a shuffling DataLoader over tensors, Adam over everything."""
    rows = np.load(folder / "rows.npz")
    ids = torch.from_numpy(np.stack([rows[name] for name in shape.fields], axis=1).astype(np.int64))
    data = TensorDataset(ids, torch.from_numpy(rows["label"].astype(np.float32)))
    loader = DataLoader(data, batch_size=shape.batch, shuffle=True, num_workers=workers)
    model = Plain(shape)
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    criterion = nn.BCEWithLogitsLoss()
    seconds = []
    for _ in range(epochs):
        started = time.perf_counter()
        total = 0.0
        for batch, labels in loader:
            optimizer.zero_grad()
            loss = criterion(model(batch), labels)
            loss.backward()
            optimizer.step()
            total += loss.item()
        seconds.append(time.perf_counter() - started)
    return seconds


def fuxictr(shape: Shape, folder: Path, epochs: int, workers: int) -> list[float]:
    """Seconds of each epoch: FuxiCTR's layers, training loop (Adam, clipped gradients) and loader of .npz files."""
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.dataloaders.npz_dataloader import NpzDataLoader
    from fuxictr.pytorch.layers import CrossNetV2, FeatureEmbedding, MLP_Block
    from fuxictr.pytorch.models import BaseModel

    features = FeatureMap("bench", str(folder))
    features.features = OrderedDict(
        (name, {"source": "", "type": "categorical", "vocab_size": size})
        for name, size in zip(shape.fields, shape.sizes, strict=True)
    )
    features.labels = ["label"]
    features.num_fields, features.default_emb_dim = len(shape.sizes), shape.dim
    features.set_column_index()

    class Model(BaseModel):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(features, verbose=0, model_root=str(folder / "fuxictr"), metrics=["AUC"])
            width = features.sum_emb_out_dim()
            self.embedding = FeatureEmbedding(features, shape.dim)
            self.cross = CrossNetV2(width, shape.cross) if shape.cross else nn.Identity()
            self.mlp = MLP_Block(width, shape.units, output_dim=1, output_activation=self.output_activation)
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


PEERS = {"PyTorch": plain, "FuxiCTR": fuxictr}


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
