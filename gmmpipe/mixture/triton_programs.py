"""The programs that `gmmpipe.mixture.triton_statistics` runs on a GPU, in Triton's Python.

A tile is BLOCK_N frames by BLOCK_K components. Its log joints are computed where they are needed
and kept in registers, from [x - c, (x - c)²] that is made of the frames as they are read, BLOCK_D
dimensions at a time. Arguments that are pointers:

    frames      [N, D], of any strides and any floating dtype
    center      [D], c
    matrix      [K, 2D], and bias [K]: the map to the log joints (`Mixture.affine_map`)
    log_sums    [parts, max_frames], ln Σ_k exp(log joint) over each part of the components
    partials    [chunks, 2D + 1, K], sums as of `Statistics`, transposed
"""

import triton
import triton.language as tl


@triton.jit
def _to_tf32(values):
    """The nearest numbers of 10 bits; the tensor cores by themselves cut bits off."""
    bits = values.to(tl.int32, bitcast=True)
    return ((bits + 0x1000) & -0x2000).to(tl.float32, bitcast=True)


@triton.jit
def _add_product(left, right, total, PRECISION: tl.constexpr):
    if PRECISION == "tf32":
        left, right = _to_tf32(left), _to_tf32(right)
    return tl.dot(left, right, total, input_precision=PRECISION)


@triton.jit
def _centred(frames, row_stride, column_stride, center, rows, present, dims, dim):
    """x - c of some rows and dimensions; 0 where a row is absent or a dimension is beyond D."""
    places = rows.to(tl.int64)[:, None] * row_stride + dims[None, :] * column_stride
    mask = present[:, None] & (dims < dim)[None, :]
    values = tl.load(frames + places, mask=mask, other=0.0).to(tl.float32)
    shift = tl.load(center + dims, mask=dims < dim, other=0.0)
    return tl.where(mask, values - shift[None, :], 0.0)


@triton.jit
def _log_joints(
    frames,
    row_stride,
    column_stride,
    center,
    matrix,
    bias,
    rows,
    present,
    columns,
    num_components,
    dim: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The log joints of a tile, [BLOCK_N, BLOCK_K]; -inf beyond K."""
    real = columns < num_components
    joints = tl.zeros([BLOCK_N, BLOCK_K], dtype=tl.float32)
    for start in range(0, dim, BLOCK_D):
        dims = start + tl.arange(0, BLOCK_D)
        x = _centred(frames, row_stride, column_stride, center, rows, present, dims, dim)
        places = columns.to(tl.int64)[None, :] * (2 * dim) + dims[:, None]
        mask = (dims < dim)[:, None] & real[None, :]
        linear = tl.load(matrix + places, mask=mask, other=0.0)
        square = tl.load(matrix + places + dim, mask=mask, other=0.0)
        joints = _add_product(x, linear, joints, PRECISION)
        joints = _add_product(x * x, square, joints, PRECISION)
    return joints + tl.load(bias + columns, mask=real, other=float("-inf"))[None, :]


@triton.jit(do_not_specialize=["num_frames"])
def sum_likelihoods(
    frames,
    row_stride,
    column_stride,
    center,
    matrix,
    bias,
    log_sums,
    max_frames,
    num_frames,
    num_components,
    tiles_per_part,
    dim: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """First pass: `log_sums`. One program takes a tile's frames and one part of the components."""
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    part = tl.program_id(1)
    present = rows < num_frames
    largest = tl.full([BLOCK_N], float("-inf"), dtype=tl.float32)
    total = tl.zeros([BLOCK_N], dtype=tl.float32)
    for tile in range(part * tiles_per_part, (part + 1) * tiles_per_part):
        columns = tile * BLOCK_K + tl.arange(0, BLOCK_K)
        joints = _log_joints(
            frames,
            row_stride,
            column_stride,
            center,
            matrix,
            bias,
            rows,
            present,
            columns,
            num_components,
            dim,
            BLOCK_N,
            BLOCK_K,
            BLOCK_D,
            PRECISION,
        )
        larger = tl.maximum(largest, tl.max(joints, 1))
        shift = tl.where(larger == float("-inf"), 0.0, larger)  # of components without weight
        total = total * tl.exp(largest - shift) + tl.sum(tl.exp(joints - shift[:, None]), 1)
        largest = larger
    shift = tl.where(largest == float("-inf"), 0.0, largest)
    tl.store(log_sums + part * max_frames + rows, shift + tl.log(total), mask=present)


@triton.jit(do_not_specialize=["first_row", "num_frames"])
def add_statistics(
    frames,
    row_stride,
    column_stride,
    center,
    matrix,
    bias,
    log_sums,
    max_frames,
    weights,
    partials,
    first_row,
    num_frames,
    num_components,
    dim: tl.constexpr,
    num_parts: tl.constexpr,
    WEIGHTED: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Second pass: add one tile to the partial sums of its chunk, which no other program touches.

    Each number of those is read and written once, so that nothing depends on the order of threads.
    """
    columns = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
    chunk = tl.program_id(1)
    rows = first_row + chunk * BLOCK_N + tl.arange(0, BLOCK_N)
    present = rows < num_frames
    if WEIGHTED:
        weight = tl.load(weights + rows, mask=present, other=0.0)
        present = weight != 0.0
    joints = _log_joints(
        frames,
        row_stride,
        column_stride,
        center,
        matrix,
        bias,
        rows,
        present,
        columns,
        num_components,
        dim,
        BLOCK_N,
        BLOCK_K,
        BLOCK_D,
        PRECISION,
    )
    largest = tl.full([BLOCK_N], float("-inf"), dtype=tl.float32)
    for part in tl.static_range(num_parts):
        one = tl.load(log_sums + part * max_frames + rows, mask=present, other=0.0)
        largest = tl.maximum(largest, one)
    total = tl.zeros([BLOCK_N], dtype=tl.float32)
    for part in tl.static_range(num_parts):
        one = tl.load(log_sums + part * max_frames + rows, mask=present, other=0.0)
        total += tl.exp(one - largest)
    posteriors = tl.exp(joints - (largest + tl.log(total))[:, None])
    posteriors = tl.where(present[:, None], posteriors, 0.0)
    if WEIGHTED:
        posteriors *= weight[:, None]
    real = columns < num_components
    sums = partials + chunk.to(tl.int64) * (2 * dim + 1) * num_components
    for start in range(0, dim, BLOCK_D):
        dims = start + tl.arange(0, BLOCK_D)
        x = tl.trans(_centred(frames, row_stride, column_stride, center, rows, present, dims, dim))
        mask = (dims < dim)[:, None] & real[None, :]
        first = sums + dims.to(tl.int64)[:, None] * num_components + columns[None, :]
        second = first + dim * num_components
        first_total = tl.load(first, mask=mask, other=0.0)
        second_total = tl.load(second, mask=mask, other=0.0)
        tl.store(first, _add_product(x, posteriors, first_total, PRECISION), mask=mask)
        tl.store(second, _add_product(x * x, posteriors, second_total, PRECISION), mask=mask)
    counts = sums + 2 * dim * num_components + columns
    total_counts = tl.load(counts, mask=real, other=0.0) + tl.sum(posteriors, 0)
    tl.store(counts, total_counts, mask=real)
