import hashlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bnlab.training.batches import (
    Batches,
    NormalizeName,
    crop,
    data_order_hash,
    draw_augmentation,
    epoch_order,
    fit_normalize,
    mirror,
)
from bnlab.training.datasets import Split

CPU = torch.device("cpu")


def make_split(count: int) -> Split:
    """Image i is filled with noise, its label is i: a batch says where it comes from."""
    images = torch.randint(
        0, 256, (count, 3, 32, 32), generator=torch.Generator().manual_seed(count)
    )
    return Split(images.to(torch.uint8), torch.arange(count))


def make_batches(
    count: int = 10,
    *,
    batch_size: int = 4,
    seed: int = 0,
    flip: bool = True,
    crop_padding: int = 4,
    shuffle: bool = True,
    once: bool = False,
    normalize: NormalizeName = "none",
    channels_last: bool = True,
) -> Batches:
    split = make_split(count)
    return Batches(
        split,
        fit_normalize(normalize, split.images),
        batch_size=batch_size,
        device=CPU,
        seed=seed,
        flip=flip,
        crop_padding=crop_padding,
        shuffle=shuffle,
        once=once,
        channels_last=channels_last,
    )


def labels_of(batches: Batches, epoch: int) -> list[int]:
    return torch.cat([labels for _, labels in batches.epoch(epoch)]).tolist()


# ---------------------------------------------------------------------------------------- order


def test_epoch_order_visits_every_image_once() -> None:
    assert epoch_order(3, 7, 100).sort().values.tolist() == list(range(100))


def test_epoch_order_differs_between_epochs_and_between_seeds() -> None:
    first = epoch_order(0, 0, 100)
    assert not torch.equal(first, epoch_order(0, 1, 100))
    assert not torch.equal(first, epoch_order(1, 0, 100))


def test_epoch_order_ignores_the_global_random_state() -> None:
    before = epoch_order(0, 0, 50)
    torch.manual_seed(99)
    assert torch.equal(before, epoch_order(0, 0, 50))


def test_data_order_hash_is_the_sha256_of_the_orders_in_sequence() -> None:
    orders = torch.cat([epoch_order(5, epoch, 20) for epoch in range(3)]).to(torch.int32)
    assert data_order_hash(5, 3, 20) == hashlib.sha256(orders.numpy().tobytes()).hexdigest()


def test_one_order_for_all_epochs_is_that_of_the_first() -> None:
    orders = torch.cat([epoch_order(5, 0, 20)] * 3).to(torch.int32)
    found = data_order_hash(5, 3, 20, once=True)
    assert found == hashlib.sha256(orders.numpy().tobytes()).hexdigest()
    assert found != data_order_hash(5, 3, 20)
    batches = make_batches(once=True)
    first, second = batches.plan(0), batches.plan(1)
    assert torch.equal(first.tensors()[0], second.tensors()[0])
    assert not torch.equal(first.tensors()[1], second.tensors()[1])  # crops are drawn anew


def test_data_order_hash_tells_seed_epochs_and_count_apart() -> None:
    hashes = {data_order_hash(*args) for args in [(0, 2, 9), (1, 2, 9), (0, 3, 9), (0, 2, 8)]}
    assert len(hashes) == 4


# --------------------------------------------------------------------------------- augmentation


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    count=st.integers(1, 5),
    padding=st.integers(0, 6),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    data=st.data(),
)
def test_crop_equals_cutting_each_padded_image_by_itself(
    count: int, padding: int, size: tuple[int, int], data: st.DataObject
) -> None:
    height, width = size
    images = torch.randint(1, 256, (count, 3, height, width)).to(torch.uint8)
    offsets = st.lists(st.integers(0, 2 * padding), min_size=count, max_size=count)
    rows, columns = data.draw(offsets), data.draw(offsets)
    expected = torch.zeros_like(images)
    for image, row, column, into in zip(images, rows, columns, expected, strict=True):
        padded = torch.zeros(3, height + 2 * padding, width + 2 * padding, dtype=torch.uint8)
        padded[:, padding : padding + height, padding : padding + width] = image
        into.copy_(padded[:, row : row + height, column : column + width])
    result = crop(images, torch.tensor(rows), torch.tensor(columns), padding)
    assert torch.equal(result, expected)


def test_crop_at_the_padding_itself_changes_nothing() -> None:
    images = make_split(3).images
    offset = torch.full((3,), 4)
    assert torch.equal(crop(images, offset, offset, 4), images)


def test_crop_from_the_corner_leaves_black_above_and_to_the_left() -> None:
    images = torch.full((1, 3, 32, 32), 200, dtype=torch.uint8)
    corner = torch.zeros(1, dtype=torch.int64)
    result = crop(images, corner, corner, 4)
    assert result[:, :, :4].max() == 0
    assert result[:, :, :, :4].max() == 0
    assert result[:, :, 4:, 4:].min() == 200


def test_mirror_reverses_the_columns_of_flipped_images_only() -> None:
    images = make_split(2).images
    result = mirror(images, torch.tensor([False, True]))
    assert torch.equal(result[0], images[0])
    assert torch.equal(result[1], images[1].flip(2))


@settings(deadline=None, max_examples=25, derandomize=True)
@given(padding=st.integers(0, 16))
def test_offsets_cover_zero_to_twice_the_padding_and_nothing_else(padding: int) -> None:
    drawn = draw_augmentation(0, 0, 4000, padding, flip=True)
    assert set(drawn.rows.tolist()) == set(range(2 * padding + 1))
    assert set(drawn.columns.tolist()) == set(range(2 * padding + 1))


def test_half_of_the_images_are_flipped() -> None:
    flips = draw_augmentation(0, 0, 10_000, 4, flip=True).flips
    assert flips.double().mean().item() == pytest.approx(0.5, abs=0.02)


def test_no_flip_flips_nothing_and_shifts_no_crop() -> None:
    on, off = (draw_augmentation(1, 2, 50, 4, flip=flip) for flip in (True, False))
    assert not off.flips.any()
    assert torch.equal(on.rows, off.rows)
    assert torch.equal(on.columns, off.columns)


def test_no_crop_shifts_no_flip() -> None:
    on, off = (draw_augmentation(1, 2, 50, padding, flip=True) for padding in (4, 0))
    assert not off.rows.any()
    assert torch.equal(on.flips, off.flips)


def test_augmentation_differs_between_epochs_seeds_and_streams() -> None:
    draws = [
        draw_augmentation(0, 0, 50, 4, flip=True),
        draw_augmentation(0, 1, 50, 4, flip=True),
        draw_augmentation(1, 0, 50, 4, flip=True),
        draw_augmentation(0, 0, 50, 4, flip=True, name="augment_test"),
    ]
    assert len({tuple(draw.rows.tolist()) for draw in draws}) == 4


# -------------------------------------------------------------------------------- normalization


def two_level_images() -> torch.Tensor:
    """Channel 0 is half 0 and half 255, channel 1 half 100 and half 200, channel 2 all 50."""
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    images[1, 0] = 255
    images[0, 1], images[1, 1] = 100, 200
    images[:, 2] = 50
    return images


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # (low, high) of each channel of two_level_images
        ("none", [(0, 255), (100, 200), (50, 50)]),
        ("half", [(-1, 1), (200 / 255 - 1, 400 / 255 - 1), (100 / 255 - 1, 100 / 255 - 1)]),
        ("minmax", [(0, 1), (0, 1), (0, 0)]),
        ("zscore", [(-1, 1), (-1, 1), (0, 0)]),
        ("decimal", [(0, 0.255), (0.1, 0.2), (0.05, 0.05)]),
    ],
)
def test_normalize_maps_known_pixels_to_known_values(
    name: NormalizeName, expected: list[tuple[float, float]]
) -> None:
    images = two_level_images()
    result = fit_normalize(name, images).apply(images)
    assert result.dtype == torch.float32
    for channel, (low, high) in enumerate(expected):
        torch.testing.assert_close(result[0, channel], torch.full((32, 32), float(low)))
        torch.testing.assert_close(result[1, channel], torch.full((32, 32), float(high)))


def test_per_image_gives_each_image_mean_zero_and_variance_one() -> None:
    images = make_split(4).images
    images[1] //= 8
    result = fit_normalize("per_image", images).apply(images).double()
    torch.testing.assert_close(
        result.mean((1, 2, 3)), torch.zeros(4, dtype=torch.float64), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(
        result.var((1, 2, 3), correction=0), torch.ones(4, dtype=torch.float64)
    )


def test_per_image_turns_an_image_of_one_color_into_zeros() -> None:
    images = torch.full((2, 3, 32, 32), 77, dtype=torch.uint8)
    assert torch.equal(fit_normalize("per_image", images).apply(images), torch.zeros(2, 3, 32, 32))


@settings(deadline=None, max_examples=25, derandomize=True)
@given(seed=st.integers(0, 1000))
def test_zscore_of_the_training_images_has_mean_zero_and_variance_one(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (3, 3, 8, 8), generator=generator).to(torch.uint8)
    result = fit_normalize("zscore", images).apply(images).double()
    zeros, ones = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    torch.testing.assert_close(result.mean((0, 2, 3)), zeros, atol=1e-5, rtol=0)
    torch.testing.assert_close(result.var((0, 2, 3), correction=0), ones, atol=1e-5, rtol=1e-5)


def test_zscore_statistics_are_those_of_float64() -> None:
    images = make_split(50).images
    exact = images.double()
    std = exact.std((0, 2, 3), correction=0)
    fitted = fit_normalize("zscore", images)
    assert torch.equal(fitted.scale.flatten(), (1 / std).float())


def test_apply_leaves_the_stored_pixels_alone() -> None:
    images = make_split(2).images
    before = images.clone()
    fit_normalize("zscore", images).apply(images)
    assert torch.equal(images, before)


# -------------------------------------------------------------------------------------- batches


def test_an_epoch_gives_every_image_once_and_keeps_the_last_partial_batch() -> None:
    batches = make_batches(10, batch_size=4)
    sizes = [len(labels) for _, labels in batches.epoch(0)]
    assert sizes == [4, 4, 2]
    assert batches.steps == 3
    assert sorted(labels_of(batches, 0)) == list(range(10))


def test_a_batch_size_above_the_image_count_gives_one_batch() -> None:
    batches = make_batches(3, batch_size=100)
    assert batches.steps == 1
    assert len(labels_of(batches, 0)) == 3


def test_images_come_as_float32_in_channels_last_memory_unless_told_otherwise() -> None:
    for channels_last in (True, False):
        for augmented in (True, False):
            batches = make_batches(
                flip=augmented, crop_padding=4 * augmented, channels_last=channels_last
            )
            images, labels = next(batches.epoch(0))
            assert images.dtype == torch.float32
            assert labels.dtype == torch.int64
            assert images.shape == (4, 3, 32, 32)
            layout = torch.channels_last if channels_last else torch.contiguous_format
            assert images.is_contiguous(memory_format=layout)


def test_a_batch_is_the_images_cropped_flipped_and_normalized_in_epoch_order() -> None:
    split = make_split(10)
    order, drawn = epoch_order(6, 3, 10), draw_augmentation(6, 3, 10, 4, flip=True)
    expected = mirror(crop(split.images[order], drawn.rows, drawn.columns, 4), drawn.flips)
    batches = make_batches(10, seed=6, normalize="half")
    images = torch.cat([images for images, _ in batches.epoch(3)])
    torch.testing.assert_close(images, (expected / 255 - 0.5) / 0.5)


def test_the_order_does_not_depend_on_augmentation() -> None:
    orders = {
        tuple(labels_of(make_batches(flip=flip, crop_padding=padding), 2))
        for flip in (True, False)
        for padding in (0, 4)
    }
    assert len(orders) == 1


def test_an_epoch_begun_in_the_middle_gives_the_same_batches() -> None:
    whole = list(make_batches().epoch(5))
    for start in range(4):
        rest = list(make_batches().epoch(5, start_step=start))
        assert len(rest) == len(whole) - start
        for (images, labels), (later_images, later_labels) in zip(whole[start:], rest, strict=True):
            assert torch.equal(images, later_images)
            assert torch.equal(labels, later_labels)


def test_without_shuffle_or_augmentation_images_come_as_they_are_in_every_epoch() -> None:
    batches = make_batches(flip=False, crop_padding=0, shuffle=False)
    for epoch in (0, 1):
        images = torch.cat([images for images, _ in batches.epoch(epoch)])
        assert torch.equal(images, make_split(10).images.float())
        assert labels_of(batches, epoch) == list(range(10))


def test_held_out_images_are_augmented_from_a_stream_of_their_own() -> None:
    batches = make_batches(shuffle=False)
    drawn = draw_augmentation(0, 1, 10, 4, flip=True, name="augment_test")
    expected = mirror(crop(make_split(10).images, drawn.rows, drawn.columns, 4), drawn.flips)
    assert labels_of(batches, 1) == list(range(10))
    assert torch.equal(torch.cat([images for images, _ in batches.epoch(1)]), expected.float())


def test_crop_only_and_flip_only_use_the_draws_of_both() -> None:
    drawn, order = draw_augmentation(0, 0, 10, 4, flip=True), epoch_order(0, 0, 10)
    images = make_split(10).images[order]
    cropped = torch.cat([images for images, _ in make_batches(flip=False).epoch(0)])
    flipped = torch.cat([images for images, _ in make_batches(crop_padding=0).epoch(0)])
    assert torch.equal(cropped, crop(images, drawn.rows, drawn.columns, 4).float())
    assert torch.equal(flipped, mirror(images, drawn.flips).float())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_an_epoch_on_a_gpu_equals_one_on_the_cpu_and_never_waits() -> None:
    split, normalize = make_split(10), fit_normalize("half", make_split(10).images)
    here, there = (
        Batches(
            split,
            normalize,
            batch_size=4,
            device=torch.device(device),
            seed=0,
            flip=True,
            crop_padding=4,
            shuffle=True,
        )
        for device in ("cpu", "cuda")
    )
    epoch = there.epoch(0)
    made = [next(epoch)]  # the epoch's plan is drawn and moved here
    torch.cuda.set_sync_debug_mode("error")
    try:
        made += list(epoch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for (images, labels), (other_images, other_labels) in zip(here.epoch(0), made, strict=True):
        torch.testing.assert_close(images, other_images.cpu())
        assert torch.equal(labels, other_labels.cpu())
