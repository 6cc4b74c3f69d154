"""The model in training: TorchRec's sharded embedding tables in front of the template's network."""

import logging
import math
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torch import Tensor, nn
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.types import ParameterConstraints
from torchrec.distributed.types import ShardedTensor
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from smt.training.features import FIRST_VALUE_ROW, CategoricalFeature, FeatureSpec
from smt.training.model import TemplateNet
from smt.training.parallel import gather

if TYPE_CHECKING:
    from smt.training.template import Template

# TorchRec asks torch.fx a question in the forward pass that torch warns of; nothing here could be changed.
logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)

# Below this size of a batch's embeddings, one thread looks them up and updates them: fbgemm's CPU kernels start a
# parallel region or more per table, which together take longer than this much work does.
SERIAL_BYTES = 16 << 20
# How the planner may shard a table: by rows on GPUs alone, by columns only one of 128 and more. With an optimizer that
# fbgemm does not fuse on CPUs tables are not sharded: each process has a replica, made of torch's own modules, since
# fbgemm gives no dense gradients on CPUs.
CONSTRAINTS = ParameterConstraints(sharding_types=["table_wise", "row_wise", "column_wise"])
# One process holds whole tables: as kinds of one, they are looked up and updated together, in one call.
ALONE = ParameterConstraints(sharding_types=["table_wise"])

# (embeddings [B, L, dim] in the order of the spec's lookups, the batch's ids) -> embeddings
Transform = Callable[[Tensor, KeyedJaggedTensor], Tensor]


@dataclass(frozen=True)
class Shard:
    """What a process holds of a table: weights [rows, columns], the first of which are `row` and `column` of it."""

    row: int
    column: int
    weights: Tensor


class ScenarioModel(nn.Module):
    """Tables and network. Slots without a feature are zeros, as they are in the template binary.

    dims: of each categorical feature's table. Where it is not the template's dimension, a matrix of `projections`
        [template's, table's] maps it there. transforms: what acts on the embeddings, in training only.
    """

    def __init__(self, template: "Template", spec: FeatureSpec, dims: list[int]) -> None:
        super().__init__()
        dim = template.slots.dim
        self.ebc = EmbeddingBagCollection(
            tables=[_table(i, dim, spec, template) for i, dim in enumerate(dims)],
            device=torch.device("meta" if template.recipe.embedding_optimizer.type == "rowwise_adagrad" else "cpu"),
        )
        self.net = TemplateNet(template)
        self.projections = nn.ParameterDict(
            {_name(i): nn.Parameter(torch.randn(dim, k) / math.sqrt(k)) for i, k in enumerate(dims) if k != dim}
        )
        self.transforms: list[Transform] = []
        self._shape = (template.slots.categorical, dim)
        index = {feature.name: i for i, feature in enumerate(spec.categorical)}
        self._slots = {key: slot for key, _, slot in spec.lookups}
        self._names = {key: _name(index[feature.name]) for key, feature, _ in spec.lookups}
        self._dims = {key: dims[index[feature.name]] for key, feature, _ in spec.lookups}
        self._order: Tensor | None = None
        self._in_order = False  # the embeddings are those of all slots, in their order

    def forward(self, dense: Tensor, sparse: KeyedJaggedTensor) -> Tensor:
        """dense [B, D] float32, sparse with one key per lookup of the spec -> logits [B, T]."""
        slots, dim = self._shape
        serial = dense.device.type == "cpu" and 4 * sum(self._dims.values()) * len(dense) <= SERIAL_BYTES
        with threads(1) if serial else nullcontext():
            embedded = self.ebc(sparse)
            values = embedded.values()
        if serial and values.requires_grad:
            # Called when only the tables' backward is left; `ShardedModel.backward` sets the threads back.
            values.register_hook(lambda _: torch.set_num_threads(1))
        # Sharding may have put the features into another order.
        keys: list[str] = embedded.keys()
        if self._order is None:
            order = [self._slots[key] for key in keys]
            self._order, self._in_order = torch.tensor(order, device=values.device), order == list(range(slots))
        x = self._projected(values, keys)
        if self.training and self.transforms:
            x = self._transformed(x, sparse, keys)
        pooled = x if self._in_order else x.new_zeros(len(values), slots, dim).index_copy(1, self._order, x)
        logits: Tensor = self.net(dense, pooled)
        return logits

    def _projected(self, values: Tensor, keys: list[str]) -> Tensor:
        """[B, sum of the lookups' dims] -> [B, L, dim]."""
        dim = self._shape[1]
        if not self.projections:
            return values.view(len(values), -1, dim)
        parts = torch.split(values, [self._dims[key] for key in keys], dim=1)
        projected = []
        for key, part in zip(keys, parts, strict=True):
            name = self._names[key]
            projected.append(part @ self.projections[name].T if name in self.projections else part)
        return torch.stack(projected, dim=1)

    def _transformed(self, x: Tensor, sparse: KeyedJaggedTensor, keys: list[str]) -> Tensor:
        to_spec = torch.tensor([keys.index(name) for name in self._slots], device=x.device)
        y = x.index_select(1, to_spec)
        for transform in self.transforms:
            y = transform(y, sparse)
        return y.index_select(1, torch.argsort(to_spec))


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


def _table(index: int, dim: int, spec: FeatureSpec, template: "Template") -> EmbeddingBagConfig:
    feature = spec.categorical[index]
    # Of one value, mean and sum are the same, but fbgemm's CPU kernel for means is several times slower.
    mean = feature.multi_valued and template.slots.pooling == "mean"
    return EmbeddingBagConfig(
        name=_name(index),
        num_embeddings=feature.rows,
        embedding_dim=dim,
        feature_names=[key for key, of, _ in spec.lookups if of is feature],
        pooling=PoolingType.MEAN if mean else PoolingType.SUM,
    )


def table_dims(template: "Template", spec: FeatureSpec) -> list[int]:
    """The dimension in which each categorical feature's table is trained."""
    dims = []
    for feature in spec.categorical:
        asked = [dim for each in template.techniques if (dim := each.table_dim(template, feature)) is not None]
        dims.append(asked[-1] if asked else template.slots.dim)
    return dims


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
    """A scenario's model under DistributedModelParallel; row-wise Adagrad is fused into the tables' backward.

    The initial weights are a function of the recipe's seed and the features' names: they do not depend on the number
    of processes, and adding a feature leaves the tables of the others as they were.
    """

    def __init__(self, template: "Template", spec: FeatureSpec, device: torch.device) -> None:
        torch.manual_seed(template.recipe.seed)
        self.dims = table_dims(template, spec)
        model = ScenarioModel(template, spec, self.dims)
        self.spec = spec
        self.dim = template.slots.dim
        self.net = model.net.to(device)
        self.projections = model.projections.to(device)
        self.transforms = model.transforms
        # Parameters of techniques, which serving does not have; they are trained with the dense weights.
        self.extra: dict[str, nn.Parameter] = {}
        optimizer = template.recipe.embedding_optimizer
        self._fused = optimizer.type == "rowwise_adagrad"
        fused = {"optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD, "learning_rate": optimizer.lr, "eps": 1e-8}
        sharder = EmbeddingBagCollectionSharder(fused_params=fused)
        world = dist.get_world_size()
        names = [_name(i) for i in range(len(spec.categorical))]
        with _quiet():
            planner = EmbeddingShardingPlanner(
                topology=Topology(world_size=world, compute_device=device.type),
                constraints=dict.fromkeys(names, CONSTRAINTS if world > 1 else ALONE),
            )
            sharders: list[Any] = [sharder] if self._fused else []
            plan = planner.collective_plan(model, sharders, dist.GroupMember.WORLD)
            # With one process, averaging gradients over all of them would be copies for nothing.
            self.dmp = DistributedModelParallel(
                model, device=device, plan=plan, sharders=sharders, init_data_parallel=world > 1
            )
        self.fused_optimizer = self.dmp.fused_optimizer
        self._seed = template.recipe.seed
        self._initialise(0)

    def dense_parameters(self) -> dict[str, nn.Parameter]:
        """All that the dense optimizer trains, by name: the network, projections of tables, extras of techniques."""
        projections = {f"projections.{name}": parameter for name, parameter in self.projections.items()}
        return {**dict(self.net.named_parameters()), **projections, **self.extra}

    def replicated_tables(self) -> dict[str, nn.Parameter]:
        """The tables that have no fused optimizer, by name."""
        if self._fused:
            return {}
        return {name: parameter for name, parameter in self.dmp.named_parameters() if ".embedding_bags." in name}

    def __call__(self, dense: Tensor, sparse: KeyedJaggedTensor) -> Tensor:
        logits: Tensor = self.dmp(dense, sparse)
        return logits

    def backward(self, loss: Tensor) -> None:
        """Computes the gradients of the dense weights, and updates the tables."""
        with threads():
            loss.backward()  # type: ignore[no-untyped-call]
        world = dist.get_world_size()
        if world > 1:
            for parameter in self.extra.values():
                assert parameter.grad is not None
                dist.all_reduce(parameter.grad)
                parameter.grad.div_(world)

    def set_embedding_lr(self, lr: float) -> None:
        """Takes effect from the next backward on."""
        for group in self.fused_optimizer.param_groups:
            group["lr"] = lr
        self.fused_optimizer.step()

    def table_shards(self, gathering: bool = False) -> Iterator[tuple[CategoricalFeature, list[Shard]]]:
        """Of each table what this process holds; of a replica everything, or with `gathering` on rank 0 alone."""
        with _quiet():
            state = self.dmp.state_dict()
        for index, feature in enumerate(self.spec.categorical):
            sharded = state[f"ebc.embedding_bags.{_name(index)}.weight"]
            if not isinstance(sharded, ShardedTensor):  # a replica
                yield feature, [Shard(0, 0, sharded)] if dist.get_rank() == 0 or not gathering else []
                continue
            offsets = [(shard.metadata.shard_offsets, shard.tensor) for shard in sharded.local_shards()]
            yield feature, [Shard(row, column, weights) for (row, column), weights in offsets]

    def table(self) -> Tensor:
        """[table_rows, dim] float32 on the CPU: the tables in the spec's order. On ranks other than 0: zeros."""
        table = torch.zeros(self.spec.table_rows, self.dim)
        matrices = {feature.name: self.projections.get(_name(i)) for i, feature in enumerate(self.spec.categorical)}
        for feature, shards in self.table_shards(gathering=True):
            matrix = matrices[feature.name]
            local = []
            for shard in shards:
                weights, column = shard.weights.detach(), shard.column
                if matrix is not None:
                    # The columns that are elsewhere add their part.
                    weights, column = weights @ matrix.detach()[:, column : column + weights.shape[1]].T, 0
                local.append((feature.first_row + shard.row, column, weights.cpu()))
            for row, column, weights in (shard for part in gather(local) for shard in part):
                table[row : row + len(weights), column : column + weights.shape[1]] += weights
        return table

    def renew_tables(self, generation: int) -> None:
        """Draws the tables anew, and lets their fused optimizer forget. Another generation draws other values."""
        self._initialise(generation)
        with _quiet():
            for states in self.fused_optimizer.state_dict()["state"].values():
                for state in states.values():
                    shards = state.local_shards() if isinstance(state, ShardedTensor) else []
                    for tensor in [shard.tensor for shard in shards] or [state]:
                        tensor.zero_()

    def rows(self, rows: Tensor) -> Tensor:
        """[n, dim] float32 on the CPU: those rows of `table()`. On ranks other than 0: zeros.

        rows [n] int64 on the CPU, increasing; the same on every rank.
        """
        found = torch.zeros(len(rows), self.dim)
        for feature, shards in self.table_shards(gathering=True):
            local = []
            for shard in shards:
                start = feature.first_row + shard.row
                low, high = torch.searchsorted(rows, torch.tensor([start, start + len(shard.weights)])).tolist()
                picked = (rows[low:high] - start).to(shard.weights.device)
                local.append((low, shard.column, shard.weights.detach()[picked].cpu()))
            for low, column, values in (shard for part in gather(local) for shard in part):
                found[low : low + len(values), column : column + values.shape[1]] = values
        return found

    def _initialise(self, generation: int) -> None:
        """Uniform values; zeros in the rows for missing and unknown, as no training row may ever move them."""
        for (feature, shards), dim in zip(self.table_shards(), self.dims, strict=True):
            seed = self._seed << 32 | zlib.crc32(feature.name.encode())
            generator = torch.Generator().manual_seed(seed ^ generation << 48)
            bound = 1 / math.sqrt(feature.rows)
            weights = torch.empty(feature.rows, dim).uniform_(-bound, bound, generator=generator)
            weights[:FIRST_VALUE_ROW] = 0
            for shard in shards:
                height, width = shard.weights.shape
                part = weights[shard.row : shard.row + height, shard.column : shard.column + width]
                shard.weights.detach().copy_(part)
