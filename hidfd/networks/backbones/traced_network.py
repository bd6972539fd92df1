"""A network of any build as a backbone: where its features end and its classifier begins is found by tracing it.

What the last linear layer reads is followed back, with two images, to the map whose mean over positions it is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from hidfd.errors import InputError
from hidfd.networks.backbones.outside_network import OutsideNetwork, are_same, is_mean_of


class TracedNetwork(OutsideNetwork):
    """A network whose forward pass is traced down to its classifier.

    Parts of a network are kept whole and follow train and eval mode, but for those that hold the classifier: what their
    forward pass computes itself is computed as in eval mode (torchvision's GoogLeNet then has no auxiliary heads).

    Args:
        network: its forward pass takes images and returns logits; becomes part of this one.
        name: of the network, for messages.
        num_classes: K.
        image_normalised: two images to try it with, of different content.
        is_strict: whether a network is refused that computes something else itself in train mode.

    Raises:
        InputError: it fails for such images, cannot be traced, or its logits are not those of its last linear layer.
    """

    def __init__(
        self, network: nn.Module, name: str, num_classes: int, image_normalised: Tensor, *, is_strict: bool = True
    ) -> None:
        super().__init__(network, name, num_classes)
        was_training = network.training
        network.eval()
        try:
            graph = _Outline(self.path).trace(network)
            traced = fx.GraphModule(network, graph)
            values = _values_of(traced, image_normalised)
            network.train()
            in_training = fx.GraphModule(network, _Outline(self.path).trace(network)) if is_strict else traced
            network.eval()
        except Exception as error:  # whatever a network of the user's raises
            reason = str(error).strip().splitlines()
            size = "x".join(map(str, image_normalised.shape[1:]))
            raise InputError(
                f"{name}: its forward pass could not be followed for images of {size} "
                f"({type(error).__name__}: {reason[0] if reason else 'no reason given'}); where it branches it may ask "
                f"for shapes and settings, not for values"
            ) from error
        if in_training.code != traced.code:
            raise InputError(
                f"{name}: its forward pass asks whether it is trained (self.training), which cannot be followed; leave "
                f"that to layers, such as nn.Dropout instead of F.dropout"
            )
        features = _features_of(graph, self.path, values, name)
        self.is_map = values[features].dim() == 4
        [output] = [node for node in graph.nodes if node.op == "output"]
        output.args = ((features, output.args[0]),)
        graph.lint()
        self.network = fx.GraphModule(network, graph)
        self.network.train(was_training)

    def features(self, image_normalised: Tensor) -> Tensor:
        features: Tensor = self.network(image_normalised)[0]
        return features

    def forward(self, image_normalised: Tensor) -> Tensor:
        logits: Tensor = self.network(image_normalised)[1]
        return logits


class _Outline(fx.Tracer):
    """Follows a forward pass into the parts that hold one layer, and keeps all others whole."""

    def __init__(self, layer: str) -> None:
        super().__init__()
        self._layer = layer

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not self._layer.startswith(f"{module_qualified_name}.")


def _values_of(module: fx.GraphModule, image_normalised: Tensor) -> dict[fx.Node, Any]:
    """Return what each step of a traced network computes for a batch."""
    interpreter = fx.Interpreter(module, garbage_collect_values=False)
    with torch.no_grad():
        interpreter.run(image_normalised)
    return interpreter.env


def _features_of(graph: fx.Graph, classifier: str, values: dict[fx.Node, Any], name: str) -> fx.Node:
    """Return the step that computes the last map or, where the classifier reads no mean of one, the vector it reads.

    Raises:
        InputError: the logits are not the classifier's answer to one vector for each image.
    """
    calls: list[fx.Node] = [node for node in graph.nodes if node.op == "call_module" and node.target == classifier]
    [output] = [node for node in graph.nodes if node.op == "output"]
    answer = output.args[0]
    logits = values.get(answer) if isinstance(answer, fx.Node) else None
    if len(calls) != 1 or not isinstance(logits, Tensor) or not are_same(values[calls[0]], logits):
        raise InputError(
            f"{name}: its output is not that of its last linear layer, {classifier}; expected a forward pass that "
            f"returns the logits of that layer and nothing else"
        )
    features = calls[0].args[0]
    assert isinstance(features, fx.Node)
    vector = values[features]
    if vector.dim() != 2:
        raise InputError(
            f"{name}: its last linear layer, {classifier}, reads {tuple(vector.shape[1:])} numbers of an image; "
            f"expected one vector"
        )
    node = features
    while node.args and isinstance(node.args[0], fx.Node) and node.args[0] in values:
        node = node.args[0]
        if not is_mean_of(vector, values[node]):
            break
        features = node
    return features
