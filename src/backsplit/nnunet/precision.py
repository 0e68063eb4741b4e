"""Where bfloat16 on a CPU pays, and where it computes wrong gradients."""

from itertools import accumulate
from operator import floordiv

import torch

from backsplit.nnunet.networks import MONAI
from backsplit.nnunet.topology import Configuration


def has_fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware; without it, autocast would only cost."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def is_safe_in_bfloat16_on_cpu(configuration: Configuration) -> bool:
    """Whether training under CPU autocast gives the right gradients: no resolution is two slices thick.

    The weight gradient of a 3D convolution whose input has two voxels along the first axis is made from memory that
    was never written: wrong always, NaN sometimes. Forward pass, 2D, float32 and all other sizes are right.

    Args:
        configuration: what `configuration_of` returned.

    Source:
        Measured, torch 2.13.0 with oneDNN 3.12.0 on an AMD EPYC with avx512_bf16: stride 1, kernel 3x3x3 or 3x1x1,
        16 channels or more, against the float32 gradient.
    """
    patch_size, architecture = configuration["patch_size"], configuration["architecture"]
    if len(patch_size) == 2:
        return True
    builder = architecture["network_class_name"].rpartition(".")[2]
    divisors = {network.builder: network.divisor for network in MONAI.values()}
    if builder in divisors:
        factors = [2] * (divisors[builder].bit_length() - 1)
    else:
        factors = [stride[0] for stride in architecture["arch_kwargs"]["strides"]]
    return 2 not in accumulate(factors, floordiv, initial=patch_size[0])
