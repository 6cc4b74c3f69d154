"""The model in training: TorchRec's sharded embedding tables in front of the template's network."""

import logging
import math
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
import torch.distributed as dist
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torch import Tensor, nn
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.types import ParameterConstraints
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from smt.training.features import FIRST_VALUE_ROW, CategoricalFeature, FeatureSpec
from smt.training.model import TemplateNet
from smt.training.parallel import gather
from smt.training.template import Template

# TorchRec asks torch.fx a question in the forward pass that torch warns of; nothing here could be changed.
logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)

# Below this size of a batch's embeddings, one thread looks them up and updates them: fbgemm's CPU kernels start a
# parallel region or more per table, which together take longer than this much work does.
SERIAL_BYTES = 16 << 20
# Tables are sharded as a whole or by rows: in data-parallel tables the optimizer would not be fused.
SHARDINGS = ["table_wise", "row_wise"]


class ScenarioModel(nn.Module):
    """Tables and network. Slots without a feature are zeros, as they are in the template binary."""

    def __init__(self, template: Template, spec: FeatureSpec) -> None:
        super().__init__()
        self.ebc = EmbeddingBagCollection(
            tables=[_table(i, feature, template) for i, feature in enumerate(spec.categorical)],
            device=torch.device("meta"),
        )
        self.net = TemplateNet(template)
        self._shape = (template.slots.categorical, template.slots.dim)
        self._slots = {feature.name: feature.slot for feature in spec.categorical}
        self._order: Tensor | None = None

    def forward(self, dense: Tensor, sparse: KeyedJaggedTensor) -> Tensor:
        """dense [B, D] float32, sparse with one key per categorical feature -> logits [B, T]."""
        slots, dim = self._shape
        serial = dense.device.type == "cpu" and 4 * dim * len(self._slots) * len(dense) <= SERIAL_BYTES
        with threads(1) if serial else nullcontext():
            embedded = self.ebc(sparse)
            values = embedded.values()
        if serial and values.requires_grad:
            # Called when only the tables' backward is left; `ShardedModel.backward` sets the threads back.
            values.register_hook(lambda _: torch.set_num_threads(1))
        if self._order is None:
            # Sharding may have put the features into another order.
            keys: list[str] = embedded.keys()
            self._order = torch.tensor([self._slots[key] for key in keys], device=values.device)
        x = values.view(len(values), -1, dim)
        pooled = x.new_zeros(len(values), slots, dim).index_copy(1, self._order, x)
        logits: Tensor = self.net(dense, pooled)
        return logits


@contextmanager
def threads(count: int | None = None) -> Iterator[None]:
    """Sets torch's number of threads, and back to what it was when the block ends; None only sets it back."""
    before = torch.get_num_threads()
    try:
        if count is not None and count != before:
            torch.set_num_threads(count)
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


def _table(index: int, feature: CategoricalFeature, template: Template) -> EmbeddingBagConfig:
    # Of one value, mean and sum are the same, but fbgemm's CPU kernel for means is several times slower.
    mean = feature.multi_valued and template.slots.pooling == "mean"
    return EmbeddingBagConfig(
        name=_name(index),
        num_embeddings=feature.rows,
        embedding_dim=template.slots.dim,
        feature_names=[feature.name],
        pooling=PoolingType.MEAN if mean else PoolingType.SUM,
    )


def _name(index: int) -> str:
    # Feature names may hold dots, which separate the parts of a parameter's name.
    return f"table_{index}"


@contextmanager
def _quiet() -> Iterator[None]:
    """TorchRec reports its planning and torch its deprecations of ShardedTensor; neither tells our user anything."""
    logger = logging.getLogger("torchrec")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)


class ShardedModel:
    """A scenario's model under DistributedModelParallel, with row-wise Adagrad fused into the tables' backward.

    The initial weights are a function of the recipe's seed and the features' names: they do not depend on the number
    of processes, and adding a feature leaves the tables of the others as they were.
    """

    def __init__(self, template: Template, spec: FeatureSpec, device: torch.device) -> None:
        torch.manual_seed(template.recipe.seed)
        model = ScenarioModel(template, spec)
        self.spec = spec
        self.dim = template.slots.dim
        self.net = model.net.to(device)
        optimizer = template.recipe.embedding_optimizer
        sharder = EmbeddingBagCollectionSharder(
            fused_params={
                "optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
                "learning_rate": optimizer.lr,
                "eps": 1e-8,
            }
        )
        world = dist.get_world_size()
        names = [_name(i) for i in range(len(spec.categorical))]
        with _quiet():
            planner = EmbeddingShardingPlanner(
                topology=Topology(world_size=world, compute_device=device.type),
                constraints={name: ParameterConstraints(sharding_types=SHARDINGS) for name in names},
            )
            plan = planner.collective_plan(model, [sharder], dist.GroupMember.WORLD)
            # With one process, averaging gradients over all of them would be copies for nothing.
            self.dmp = DistributedModelParallel(
                model, device=device, plan=plan, sharders=[sharder], init_data_parallel=world > 1
            )
        self.fused_optimizer = self.dmp.fused_optimizer
        self._initialise(template)

    def __call__(self, dense: Tensor, sparse: KeyedJaggedTensor) -> Tensor:
        logits: Tensor = self.dmp(dense, sparse)
        return logits

    def backward(self, loss: Tensor) -> None:
        """Computes the gradients of the dense weights, and updates the tables."""
        with threads():
            loss.backward()  # type: ignore[no-untyped-call]

    def set_embedding_lr(self, lr: float) -> None:
        """Takes effect from the next backward on."""
        for group in self.fused_optimizer.param_groups:
            group["lr"] = lr
        self.fused_optimizer.step()

    def table_shards(self) -> Iterator[tuple[CategoricalFeature, list[tuple[int, Tensor]]]]:
        """Of each table the ranges of rows that this process holds: (first row, [rows, dim])."""
        with _quiet():
            state = self.dmp.state_dict()
        for index, feature in enumerate(self.spec.categorical):
            sharded = state[f"ebc.embedding_bags.{_name(index)}.weight"]
            yield feature, [(shard.metadata.shard_offsets[0], shard.tensor) for shard in sharded.local_shards()]

    def table(self) -> Tensor:
        """[table_rows, dim] float32 on the CPU: the tables in the spec's order. On ranks other than 0: zeros."""
        table = torch.zeros(self.spec.table_rows, self.dim)
        for feature, shards in self.table_shards():
            local = [(first, weights.detach().cpu()) for first, weights in shards]
            for first, weights in (shard for part in gather(local) for shard in part):
                start = feature.first_row + first
                table[start : start + len(weights)] = weights
        return table

    def _initialise(self, template: Template) -> None:
        """Uniform values; zeros in the rows for missing and unknown, as no training row may ever move them."""
        for feature, shards in self.table_shards():
            generator = torch.Generator().manual_seed(template.recipe.seed << 32 | zlib.crc32(feature.name.encode()))
            bound = 1 / math.sqrt(feature.rows)
            weights = torch.empty(feature.rows, self.dim).uniform_(-bound, bound, generator=generator)
            weights[:FIRST_VALUE_ROW] = 0
            for first, shard in shards:
                shard.detach().copy_(weights[first : first + len(shard)])
