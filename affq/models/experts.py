"""Keep experts as linear layers, the only layers that bitsandbytes quantizes.

transformers fuses a layer's experts into parameters of three dimensions, which would stay unquantized. The classes here keep
each expert apart, as checkpoints store it, and are loaded by transformers' own code, quantized weight by weight on the way.
Architectures that are not in UNFUSED stay fused, and fail their proof at a precision that quantizes.
"""

from typing import Any

import torch
from torch import nn
from transformers import MixtralConfig
from transformers.activations import ACT2FN
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import ConversionOps, WeightConverter, WeightRenaming
from transformers.models.mixtral.modeling_mixtral import MixtralForCausalLM, MixtralModel


class Expert(nn.Module):
    """Compute one expert of Mixtral, (tokens, hidden size) to the same: w1 is its gate, w3 goes up, w2 comes down.

    The names are those of checkpoints.
    """

    def __init__(self, config: MixtralConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.w2 = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.w3 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.w2(self.activation(self.w1(states)) * self.w3(states))


class Experts(nn.ModuleList):
    """Compute what MixtralExperts computes, expert by expert."""

    def __init__(self, config: MixtralConfig) -> None:
        super().__init__(Expert(config) for _ in range(config.num_local_experts))

    def forward(self, states: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return the weighted sum of the outputs of the chosen experts: (tokens, hidden size), as `states`.

        chosen: numbers of experts, all different in a row; weights: float32. Both (tokens, experts a token).
        """
        out = torch.zeros_like(states)
        for number in chosen.unique().tolist():
            token, rank = torch.where(chosen == number)
            weighted = self[number](states[token]) * weights[token, rank, None]
            out.index_add_(0, token, weighted.to(out.dtype))
        return out


class UnfusedMixtralModel(MixtralModel):
    """Build Mixtral without its head, experts apart."""

    def __init__(self, config: MixtralConfig) -> None:
        super().__init__(config)
        for layer in self.layers:
            layer.get_submodule("mlp").experts = Experts(config)


class UnfusedMixtralForCausalLM(MixtralForCausalLM):
    """Build Mixtral, experts apart."""

    def __init__(self, config: MixtralConfig) -> None:
        super().__init__(config)
        self.model = UnfusedMixtralModel(config)
        self.post_init()


class Unfuse(ConversionOps):
    """Split a fused parameter (experts, rows, columns) into the experts' weights, its rows evenly among the target patterns.

    The target patterns name the weights of expert 0. Raises ValueError for a parameter of another shape than the model asks for.
    """

    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, Any]:
        ((fused,),) = input_dict.values()
        name = kwargs["full_layer_name"]
        rows, columns = kwargs["model"].get_parameter(name).shape
        if fused.shape[1:] != (len(target_patterns) * rows, columns):
            raise ValueError(f"the fused experts of {name} have the shape {list(fused.shape)}")
        return {
            pattern.replace(".0.", f".{number}."): part.contiguous()
            for number, expert in enumerate(fused)
            for pattern, part in zip(target_patterns, expert.split(rows), strict=True)
        }


UNFUSED = {"mixtral": UnfusedMixtralForCausalLM}

# By the names of the classes, which count before the architecture's: its own mapping would fuse.
register_checkpoint_conversion_mapping(
    "UnfusedMixtralForCausalLM",
    [
        WeightRenaming(".block_sparse_moe.", ".mlp."),
        WeightConverter(".experts.gate_up_proj", [".experts.0.w1.weight", ".experts.0.w3.weight"], [Unfuse()]),
        WeightConverter(".experts.down_proj", ".experts.0.w2.weight", [Unfuse()]),
    ],
)
register_checkpoint_conversion_mapping("UnfusedMixtralModel", [])
