"""Moves the free scales of the heads to where encryption wants them. Factors are powers of two, so no weight is rounded."""

import math

import torch

from data import Images
from model import Transformer
from ranges import Calibration, calibrate

LARGEST_DENOMINATOR = 16.0
LARGEST_SCALED_SCORE = 8.0


@torch.no_grad()
def fold_scales(model: Transformer, images: Images) -> Calibration:
    """Rescales the queries of every head by its range over `images`; returns the ranges afterwards.

    Where eps is small against it, a power head's denominator may have any scale (weights do not change if all scores of a head
    are multiplied by one factor), and training lets it grow without need. The queries are scaled so that the largest
    denominator is at most LARGEST_DENOMINATOR, more than a quarter of it. That makes eps count for a little more than in
    training, so accuracy and ranges have to be measured after it. A scaled head passes the factor on to the output's weights:
    its function does not change at all.
    """
    before = calibrate(model, images)
    for i, layer in enumerate(model.layers):
        attention = layer.attention
        width = attention.query.weight.shape[1] // attention.heads
        for h, divides in enumerate(attention.divides.flatten().tolist()):
            columns = slice(h * width, (h + 1) * width)
            if divides:
                excess = before.high[f"{i}.denominator"][h].item() / LARGEST_DENOMINATOR
                factor = 2.0 ** -math.ceil(math.log2(excess) / attention.power)
            else:
                excess = before.high[f"{i}.score"][h].item() / LARGEST_SCALED_SCORE
                factor = 2.0 ** -math.ceil(math.log2(excess))
                attention.output.weight[columns] /= factor
            attention.query.weight[:, columns] *= factor
            attention.query.bias[columns] *= factor
    return calibrate(model, images)
