"""Losses of tokens and pairs from numbers that are already there: value and slope in one launch."""

import triton
import triton.language as tl


@triton.jit
def policy_loss_program(
    logp_ptr,
    old_ptr,
    advantage_ptr,
    loss_ptr,
    ratio_ptr,
    clipped_ptr,
    kl_ptr,
    slope_ptr,
    count,
    low,
    high,
    dual,
    largest,
    DUAL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """`alignkit.ops.policy_loss`; slope = d loss / d logp."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    real = i < count
    advantage = tl.load(advantage_ptr + i, mask=real, other=0.0)
    difference = tl.load(logp_ptr + i, mask=real, other=0.0) - tl.load(old_ptr + i, mask=real, other=0.0)
    moves = tl.abs(difference) < largest
    difference = tl.minimum(tl.maximum(difference, -largest), largest)
    ratio = tl.exp(difference)
    unclipped = -advantage * ratio
    loss = tl.maximum(unclipped, -advantage * tl.minimum(tl.maximum(ratio, 1.0 - low), 1.0 + high))
    if DUAL:
        loss = tl.where(advantage < 0.0, tl.minimum(loss, -dual * advantage), loss)
    clipped = loss != unclipped
    tl.store(loss_ptr + i, loss, mask=real)
    tl.store(ratio_ptr + i, ratio, mask=real)
    tl.store(clipped_ptr + i, clipped.to(tl.float32), mask=real)
    tl.store(kl_ptr + i, ratio - 1.0 - difference, mask=real)
    tl.store(slope_ptr + i, tl.where(moves & (clipped == 0), unclipped, 0.0), mask=real)


@triton.jit
def value_loss_program(
    value_ptr, old_ptr, return_ptr, loss_ptr, slope_ptr, count, clip, CLIP: tl.constexpr, BLOCK: tl.constexpr
):
    """`alignkit.ops.value_loss`; slope = d loss / d value."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    real = i < count
    value = tl.load(value_ptr + i, mask=real, other=0.0)
    goal = tl.load(return_ptr + i, mask=real, other=0.0)
    error = value - goal
    squared = error * error
    slope = error
    if CLIP:
        old = tl.load(old_ptr + i, mask=real, other=0.0)
        moved = value - old
        near = old + tl.minimum(tl.maximum(moved, -clip), clip) - goal
        # inside the range both errors are the same but for rounding
        slope = tl.where(near * near > squared, tl.where(tl.abs(moved) <= clip, near, 0.0), error)
        squared = tl.maximum(squared, near * near)
    tl.store(loss_ptr + i, 0.5 * squared, mask=real)
    tl.store(slope_ptr + i, slope, mask=real)


@triton.jit
def log_sigmoid(x):
    """min(x, 0) - log(1 + e^-|x|), the logarithm by its series where 1 + e would round it away."""
    e = tl.exp(-tl.abs(x))
    return tl.minimum(x, 0.0) - tl.where(e < 1e-3, e * (1.0 - e * (0.5 - e / 3.0)), tl.log(1.0 + e))


@triton.jit
def pairwise_loss_program(
    chosen_ptr,
    rejected_ptr,
    p_ptr,
    margin_ptr,
    weight_ptr,
    loss_ptr,
    slope_ptr,
    count,
    BLOCK: tl.constexpr,
):
    """`alignkit.ops.pairwise_loss`; slope = d loss / d chosen = - d loss / d rejected."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    real = i < count
    difference = tl.load(chosen_ptr + i, mask=real, other=0.0) - tl.load(rejected_ptr + i, mask=real, other=0.0)
    p = tl.load(p_ptr + i, mask=real, other=0.0)
    margin = tl.load(margin_ptr + i, mask=real, other=0.0)
    weight = tl.load(weight_ptr + i, mask=real, other=0.0)
    win = difference - margin
    lose = -difference - margin
    tl.store(loss_ptr + i, -weight * (p * log_sigmoid(win) + (1.0 - p) * log_sigmoid(lose)), mask=real)
    tl.store(slope_ptr + i, -weight * (p * tl.sigmoid(-win) - (1.0 - p) * tl.sigmoid(-lose)), mask=real)


@triton.jit
def then(a_late, b_late, a_early, b_early):
    """The map x -> b + a x of later steps, followed by that of an earlier one."""
    return a_late * a_early, b_early + a_early * b_late


@triton.jit
def gae_program(
    reward_ptr,
    value_ptr,
    mask_ptr,
    advantage_ptr,
    return_ptr,
    length,
    gamma,
    decay,
    BLOCK: tl.constexpr,
):
    """`alignkit.ops.gae`, one program a row: A_t = delta_t + gamma lam A_(t+1) is a scan of affine maps, end first."""
    row = tl.program_id(0).to(tl.int64) * length
    carry = 0.0
    blocks = tl.cdiv(length, BLOCK)
    for n in range(0, blocks):
        t = (blocks - 1 - n) * BLOCK + tl.arange(0, BLOCK)
        real = t < length
        kept = tl.load(mask_ptr + row + t, mask=real, other=0) != 0
        more = t + 1 < length
        next_kept = tl.load(mask_ptr + row + t + 1, mask=more, other=0) != 0
        value = tl.where(kept, tl.load(value_ptr + row + t, mask=real, other=0.0), 0.0)
        next_value = tl.where(next_kept, tl.load(value_ptr + row + t + 1, mask=more, other=0.0), 0.0)
        reward = tl.where(kept, tl.load(reward_ptr + row + t, mask=real, other=0.0), 0.0)
        delta = reward + gamma * next_value - value
        a, b = tl.associative_scan((tl.full((BLOCK,), 1.0, tl.float32) * decay, delta), 0, then, reverse=True)
        advantage = b + a * carry
        tl.store(advantage_ptr + row + t, tl.where(kept, advantage, 0.0), mask=real)
        tl.store(return_ptr + row + t, tl.where(kept, advantage + value, 0.0), mask=real)
        carry = tl.sum(tl.where(tl.arange(0, BLOCK) == 0, advantage, 0.0), 0)
