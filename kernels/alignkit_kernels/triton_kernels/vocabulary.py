"""Statistics and gradient of rows of logits; the formulas are in `alignkit_kernels.rows`."""

import triton
import triton.language as tl


@triton.jit
def scaled(z, inner, outer, CAP: tl.constexpr):
    """softcap(scale z) / temperature: outer tanh(inner z) with a cap, else inner outer z."""
    x = z * inner
    if CAP:
        x = 2.0 * tl.sigmoid(2.0 * x) - 1.0
    return x * outer


@triton.jit
def finite(maximum):
    """What to subtract: a row may begin with a block of forbidden ids, all -inf."""
    return tl.where(maximum == -float("inf"), 0.0, maximum)


@triton.jit
def row_statistics(
    z_ptr,
    z_stride,
    ref_ptr,
    ref_stride,
    targets_ptr,
    logp_ptr,
    entropy_ptr,
    kl_ptr,
    saved_ptr,
    vocabulary,
    inner,
    outer,
    ref_inner,
    ref_outer,
    CAP: tl.constexpr,
    REF: tl.constexpr,
    REF_CAP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program a row, one pass. With m the maximum so far, kept up to date when it grows:

    s = sum e^(x-m), t = sum e^(x-m) (x-m), u = sum e^(x-m) ((x-m) - (q-m_q)), s_q = sum e^(q-m_q);
    H = log s - t/s, KL = u/s - log s + log s_q. Every term is a difference to a maximum, so that large logits cost no
    digits.
    """
    row = tl.program_id(0).to(tl.int64)
    z_ptr += row * z_stride
    ref_ptr += row * ref_stride
    m = -float("inf")
    s = 0.0
    t = 0.0
    ref_m = -float("inf")
    ref_s = 0.0
    u = 0.0
    for start in range(0, vocabulary, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        real = columns < vocabulary
        x = scaled(tl.load(z_ptr + columns, mask=real, other=0.0).to(tl.float32), inner, outer, CAP)
        x = tl.where(real, x, -float("inf"))
        new_m = tl.maximum(m, tl.max(x, 0))
        base = finite(new_m)
        moved = tl.where(m == -float("inf"), 0.0, m - base)
        kept = tl.where(m == -float("inf"), 0.0, tl.exp(moved))
        e = tl.exp(x - base)
        shifted = tl.where(e > 0.0, x - base, 0.0)
        if REF:
            q = scaled(tl.load(ref_ptr + columns, mask=real, other=0.0).to(tl.float32), ref_inner, ref_outer, REF_CAP)
            q = tl.where(real, q, -float("inf"))
            new_ref_m = tl.maximum(ref_m, tl.max(q, 0))
            ref_base = finite(new_ref_m)
            ref_moved = tl.where(ref_m == -float("inf"), 0.0, ref_m - ref_base)
            ref_kept = tl.where(ref_m == -float("inf"), 0.0, tl.exp(ref_moved))
            difference = tl.where(e > 0.0, shifted - (q - ref_base), 0.0)
            u = kept * (u + s * (moved - ref_moved)) + tl.sum(e * difference, 0)
            ref_s = ref_kept * ref_s + tl.sum(tl.exp(q - ref_base), 0)
            ref_m = new_ref_m
        t = kept * (t + s * moved) + tl.sum(e * shifted, 0)
        s = kept * s + tl.sum(e, 0)
        m = new_m
    log_s = tl.log(s)
    target = tl.load(targets_ptr + row)
    x = scaled(tl.load(z_ptr + target).to(tl.float32), inner, outer, CAP)
    tl.store(logp_ptr + row, x - m - log_s)
    tl.store(entropy_ptr + row, log_s - t / s)
    if REF:
        ref_log_s = tl.log(ref_s)
        tl.store(kl_ptr + row, u / s - log_s + ref_log_s)
        tl.store(saved_ptr + row * 4, m)
        tl.store(saved_ptr + row * 4 + 1, log_s)
        tl.store(saved_ptr + row * 4 + 2, ref_m)
        tl.store(saved_ptr + row * 4 + 3, ref_log_s)
    else:
        tl.store(saved_ptr + row * 2, m)
        tl.store(saved_ptr + row * 2 + 1, log_s)


@triton.jit
def row_gradient(
    z_ptr,
    z_stride,
    ref_ptr,
    ref_stride,
    out_ptr,
    out_stride,
    targets_ptr,
    logp_slope_ptr,
    entropy_slope_ptr,
    kl_slope_ptr,
    entropy_ptr,
    kl_ptr,
    saved_ptr,
    vocabulary,
    inner,
    outer,
    ref_inner,
    ref_outer,
    factor,
    CAP: tl.constexpr,
    REF: tl.constexpr,
    REF_CAP: tl.constexpr,
    ENTROPY: tl.constexpr,
    SAVED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program a block of a row: reads z once, writes dL/dz (over z, if `out_ptr` is `z_ptr`)."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    real = columns < vocabulary
    x = scaled(tl.load(z_ptr + row * z_stride + columns, mask=real, other=0.0).to(tl.float32), inner, outer, CAP)
    m = tl.load(saved_ptr + row * SAVED)
    log_s = tl.load(saved_ptr + row * SAVED + 1)
    log_p = x - m - log_s
    p = tl.exp(log_p)
    a = tl.load(logp_slope_ptr + row)
    d = p * -a
    if ENTROPY:
        c = tl.load(entropy_slope_ptr + row)
        d -= tl.where(p > 0.0, p * c * (log_p + tl.load(entropy_ptr + row)), 0.0)
    if REF:
        q = scaled(
            tl.load(ref_ptr + row * ref_stride + columns, mask=real, other=0.0).to(tl.float32),
            ref_inner,
            ref_outer,
            REF_CAP,
        )
        log_q = q - tl.load(saved_ptr + row * SAVED + 2) - tl.load(saved_ptr + row * SAVED + 3)
        b = tl.load(kl_slope_ptr + row)
        d += tl.where(p > 0.0, p * b * (log_p - log_q - tl.load(kl_ptr + row)), 0.0)
    d += tl.where(columns == tl.load(targets_ptr + row), a, 0.0)
    if CAP:
        capped = x / outer
        d *= 1.0 - capped * capped
    tl.store(out_ptr + row * out_stride + columns, (d * factor).to(out_ptr.dtype.element_ty), mask=real)
