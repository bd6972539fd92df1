"""A network of any build as a backbone: where its features end and its classifier begins is found by tracing it.

The last linear layer is the classifier. What it reads is followed back, with two images, to the map whose mean over
positions it is. Where it is no such mean, as in a transformer or before a hidden layer, the vector itself is taken as a
map of one position: student and teacher are then compared by that vector.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from hidfd.errors import InputError
from hidfd.networks.backbone import Backbone

TOLERANCE = 1e-4
"""Largest difference, relative to the largest value, of numbers that are taken for the same."""


class TracedNetwork(Backbone):
    """A network whose forward pass is traced down to its classifier.

    Parts of a network are kept whole and follow train and eval mode, but for those that hold the classifier: what their
    forward pass computes itself is computed as in eval mode.

    Args:
        network: its forward pass takes images and returns logits; becomes part of this one.
        name: of the network, for messages.
        image_normalised: two images to try it with, of different content.
        num_classes: K.

    Raises:
        InputError: it fails for such images, cannot be traced, or its logits are not those of its last linear layer.
    """

    can_be_folded = False

    def __init__(self, network: nn.Module, name: str, image_normalised: Tensor, num_classes: int) -> None:
        super().__init__()
        self._classifier = _classifier_of(network, name, num_classes)
        was_training = network.training
        network.eval()
        try:
            graph = _Outline(self._classifier).trace(network)
            values = _values_of(fx.GraphModule(network, graph), image_normalised)
        except Exception as error:  # whatever a network of the user's raises
            reason = str(error).strip().splitlines()
            size = "x".join(map(str, image_normalised.shape[1:]))
            raise InputError(
                f"{name}: its forward pass could not be followed for images of {size} "
                f"({type(error).__name__}: {reason[0] if reason else 'no reason given'}); where it branches it may ask "
                f"for shapes and settings, not for values"
            ) from error
        features = _features_of(graph, self._classifier, values, name)
        self.is_map = values[features].dim() == 4
        self.feature_width = self.classifier_of(network).in_features
        [output] = [node for node in graph.nodes if node.op == "output"]
        output.args = ((features, output.args[0]),)
        graph.lint()
        self.network = fx.GraphModule(network, graph)
        self.network.train(was_training)

    def classifier_of(self, network: nn.Module) -> nn.Linear:
        """Return the last linear layer of the network that was traced."""
        return cast(nn.Linear, network.get_submodule(self._classifier))

    @property
    def classifier(self) -> nn.Linear:
        """The last linear layer."""
        return self.classifier_of(self.network)

    @property
    def published(self) -> nn.Module:
        """The network by whose names of weights it is published and saved."""
        return self.network

    def drop_classifier(self) -> None:
        """Take the classifier out, for a network that is used up to its last map."""
        self.network.set_submodule(self._classifier, nn.Identity())

    def forward_map(self, image_normalised: Tensor) -> Tensor:
        features: Tensor = self.network(image_normalised)[0]
        return features if self.is_map else features[:, :, None, None]

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


def _classifier_of(network: nn.Module, name: str, num_classes: int) -> str:
    """Return the path of the last linear layer with K outputs."""
    linear: dict[str, int] = {
        path: layer.out_features for path, layer in network.named_modules() if isinstance(layer, nn.Linear)
    }
    fitting: list[str] = [path for path, outputs in linear.items() if outputs == num_classes and path]
    if not fitting:
        there = f"its last one has {list(linear.values())[-1]:,}" if linear else "it has none"
        raise InputError(
            f"{name}: expected a last linear layer with {num_classes:,} outputs, one for each class; {there}. A head "
            f"of another kind can be neither shared nor imitated"
        )
    return fitting[-1]


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
    if len(calls) != 1 or not isinstance(logits, Tensor) or not _are_same(values[calls[0]], logits):
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
        value = values[node]
        pooled = value.mean(dim=(2, 3)) if isinstance(value, Tensor) and value.dim() == 4 else value
        if not isinstance(pooled, Tensor) or not _are_same(pooled, vector):
            break
        features = node
    return features


def _are_same(values: Tensor, others: Tensor) -> bool:
    if values.shape != others.shape:
        return False
    return bool((values - others).abs().max() <= TOLERANCE * others.abs().max())
