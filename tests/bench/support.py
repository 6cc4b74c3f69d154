"""Small shapes of the kernel benchmark's kinds: many experts and towers, or one bottom that all towers share."""

from pathlib import Path

from bench.shapes import Shape
from smt.training.template import load_template

_TEMPLATE = """
template: tiny
version: 1.0.0
slots: {{dense: 5, categorical: 3, dim: 8, pooling: sum}}
components:
  dense_arch: {{type: mlp, units: [16]}}
  interaction: {{type: cross_low_rank, layers: 2, rank: 8}}
  deep: {{type: mlp, units: [32]}}
  experts: {experts}
  heads: {heads}
recipe:
  batch_size: 16
  epochs: 1
  dense_optimizer: {{type: adam, lr: 0.001}}
  embedding_optimizer: {{type: rowwise_adagrad, lr: 0.05}}
capacity: {{flops_per_row: 100000, slab_bytes: 100000}}
"""
KINDS = {
    "mmoe": ("{type: mmoe, count: 4, units: [8]}", "{type: tower, tasks: 3, units: [16, 8]}"),
    "shared": ("{type: shared_bottom}", "{type: tower, tasks: 2, units: [16, 8]}"),
    "single": ("{type: shared_bottom}", "{type: tower, tasks: 1}"),
}


def tiny_shape(folder: Path, kind: str = "mmoe") -> Shape:
    experts, heads = KINDS[kind]
    path = folder / f"{kind}.yaml"
    path.write_text(_TEMPLATE.format(experts=experts, heads=heads))
    return Shape("tiny", load_template(path), 50)
