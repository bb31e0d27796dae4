"""Pictures of a run for TensorBoard: what it learned from, and what it took for what.

Nothing here draws from a stream that training goes on with, nor leaves anything changed.
"""

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from bnlab.training.batches import Batches, crop, mirror
from bnlab.training.loop import Task

SHOWN = 16
"""Images of a batch that are drawn."""

CELL = 44
"""Pixels of one count of a confusion matrix, each way."""

LETTERS = 10
"""Letters of a class name that are written."""

MOST_CLASSES = 30
"""More would make a picture of millions of pixels."""


def first_batch(batches: Batches) -> Tensor:
    """The first images of the first epoch as they are cropped and mirrored there.

    Returns:
        uint8, (B, C, H, W), on the CPU; B is at most `SHOWN`.
    """
    plan = batches.plan(0)
    part = slice(min(SHOWN, batches.batch_size, len(batches)))
    images = batches.images[part if plan.order is None else plan.order[part]]
    if plan.augmentation is not None:
        drawn = plan.augmentation[part]
        if batches.crop_padding:
            images = crop(images, drawn.rows, drawn.columns, batches.crop_padding)
        if batches.flip:
            images = mirror(images, drawn.flips)
    return images.cpu()


def count_confusions(task: Task, batches: Batches) -> Tensor:
    """How often the network takes images of one class (rows) for another (columns); one pass.

    Returns:
        int64, (classes, classes), on the CPU.
    """
    training = task.model.training
    task.model.eval()
    counts = torch.zeros(task.num_classes**2, dtype=torch.int64, device=task.device)
    with torch.no_grad():
        for images, labels in batches.epoch(max(task.position.epoch - 1, 0)):
            told = labels * task.num_classes + task.model(images).argmax(dim=1)
            counts += torch.bincount(told, minlength=len(counts))
    task.model.train(training)
    return counts.view(task.num_classes, task.num_classes).cpu()


def draw_batch(images: Tensor) -> tuple[bytes, tuple[int, int]]:
    """Images (B, C, H, W), uint8, side by side: a PNG file and its (width, height)."""
    count, channels, height, width = images.shape
    columns = min(8, count)
    rows = -(-count // columns)
    sheet = torch.zeros(rows * columns, channels, height, width, dtype=torch.uint8)
    sheet[:count] = images
    tiled = sheet.view(rows, columns, channels, height, width).permute(0, 3, 1, 4, 2)
    flat = tiled.reshape(rows * height, columns * width, channels)
    return _png(Image.fromarray(flat.expand(-1, -1, 3).contiguous().numpy()))


def draw_confusion(counts: Tensor, classes: Sequence[str]) -> tuple[bytes, tuple[int, int]]:
    """Each row's shares in percent, shaded: a PNG file and its (width, height)."""
    shares = (counts / counts.sum(dim=1, keepdim=True).clamp(min=1)).numpy()
    shown = [name[:LETTERS] for name in classes]
    margin = 2 * CELL
    side = margin + CELL * (len(shown) + 1)
    image = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(image)
    draw.font = ImageFont.load_default(16)
    for place, name in enumerate(shown):
        middle = margin + CELL * place + CELL // 2
        draw.text((margin - 6, middle), name, "black", anchor="rm")
        draw.text((middle, margin - 6 - 18 * (place % 2)), name, "black", anchor="mb")
    draw.text((6, 6), "rows: what it is; columns: taken for; % of a row", "black")
    for (row, column), share in np.ndenumerate(shares):
        left, top = margin + CELL * column, margin + CELL * row
        shade = (int(255 - 215 * share), int(255 - 150 * share), int(255 - 75 * share))
        draw.rectangle((left, top, left + CELL - 2, top + CELL - 2), shade)
        ink = "white" if share > 0.5 else "black"
        draw.text((left + CELL // 2, top + CELL // 2), f"{100 * share:.0f}", ink, anchor="mm")
    return _png(image)


def _png(image: Image.Image) -> tuple[bytes, tuple[int, int]]:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue(), image.size
