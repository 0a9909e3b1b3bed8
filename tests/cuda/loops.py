"""The interpreter's memory accesses, one compiled loop over the threads of a batch for all checks and counts.

Who touched a word last is written in a *shadow*, four int32 a word: writer, time of the write, reader, time of the read.
Time counts memory instructions and barriers. A writer or reader is a thread (>= 0), or several:

    -1                         of several blocks
    -2 - w,  w < warps         the lanes of warp w
    -2 - warps - b             of several warps of block b

What happened before `start` (an earlier launch; for shared memory an earlier batch) does not count.
"""

import numpy as np
from numba import njit

# What `found` reports, one row a kind: seen, offset, who, block, the other, the other's time.
OUT_OF_BOUNDS, MISALIGNED, UNINITIALISED, RAW, WAR, WAW = range(6)
KINDS = ("out of bounds", "misaligned", "uninitialised", "RAW race", "WAR race", "WAW race")

# Columns of `count`, one row an instruction.
WARPS, UNIFORM, BYTES, SECTORS, WAVEFRONTS, IDEAL = range(6)

# `space`: what is the same for a whole batch.
START, BARRIER, FIRST_WARP, BLOCK_WARPS, BATCH_BLOCKS, ALL_WARPS, BASE, SIZE, STRIDE, SHARED, GRANULE = range(11)


@njit(cache=True)
def _report(found, kind, offset, who, block, other, when):
    if found[kind, 0] == 0:
        found[kind, 0] = 1
        found[kind, 1] = offset
        found[kind, 2] = who
        found[kind, 3] = block
        found[kind, 4] = other
        found[kind, 5] = when


@njit(cache=True)
def _ordered(other, when, me, block, warp, space, warp_sync, other_reads):
    """Does what `other` did at `when` in this launch happen before what `me` does now, whatever the scheduling?"""
    if other == -1:
        return False
    if other >= 0:
        other_warp = other >> 5
    else:
        other_warp = -2 - other
        if other_warp >= space[ALL_WARPS]:
            return other_warp - space[ALL_WARPS] == block and when < space[BARRIER]
    if other_warp // space[BLOCK_WARPS] != block:
        return False
    if when < space[BARRIER]:
        return True
    if other_warp != warp:
        return False
    if other < 0 and not other_reads:
        return True  # all lanes wrote one value: each lane's own write is among them
    return when < warp_sync


@njit(cache=True)
def _readers(other, when, me, block, warp, space, warp_sync):
    """`other`, who read at `when` in this launch, and `me` in one; those that a barrier ordered before `me` are dropped."""
    if other == -1:
        return -1
    if other < 0 and -2 - other >= space[ALL_WARPS]:
        if -2 - other - space[ALL_WARPS] != block:
            return -1
        return other if when >= space[BARRIER] else me
    other_warp = other >> 5 if other >= 0 else -2 - other
    if other_warp // space[BLOCK_WARPS] != block:
        return -1
    if when < space[BARRIER]:
        return me
    if other_warp != warp:
        return -2 - space[ALL_WARPS] - block
    return -2 - warp if when >= warp_sync else me


@njit(cache=True)
def _count_global(offsets, n, nbytes, sectors, bits, count, site, times):
    """Coalescing of one warp's access: bytes used and 32-byte sectors touched."""
    same, dense = True, True
    for i in range(1, n):
        same = same and offsets[i] == offsets[0]
        dense = dense and offsets[i] == offsets[i - 1] + nbytes
    count[site, WARPS] += times
    if same:
        count[site, UNIFORM] += times
        return
    if dense:
        count[site, BYTES] += n * nbytes * times
        count[site, SECTORS] += (((offsets[n - 1] + nbytes - 1) >> 5) - (offsets[0] >> 5) + 1) * times
        return
    touched = 0
    for i in range(n):
        sector = offsets[i] >> 5
        used = ((1 << nbytes) - 1) << (offsets[i] & 31)
        j = touched - 1
        while j >= 0 and sectors[j] != sector:
            j -= 1
        if j < 0:
            sectors[touched] = sector
            bits[touched] = used
            touched += 1
        else:
            bits[j] |= used
    total = 0
    for j in range(touched):
        used = bits[j]
        while used:
            used &= used - 1
            total += 1
    count[site, BYTES] += total * times
    count[site, SECTORS] += touched * times


@njit(cache=True)
def _count_shared(offsets, lanes, n, nbytes, words, extra, count, site, times):
    """Bank conflicts of one warp's access: 32 lanes a phase, 16 with 8 bytes each, 8 with 16; a word serves all at once."""
    phase_lanes = 32 if nbytes <= 4 else 128 // nbytes
    count[site, WARPS] += times
    i = 0
    while i < n:
        phase = lanes[i] // phase_lanes
        most, extras = 1, 0
        for bank in range(32):
            words[0, bank] = -1
        while i < n and lanes[i] // phase_lanes == phase:
            first = offsets[i] >> 2
            for word in range(first, first + max(nbytes >> 2, 1)):
                bank = word & 31
                if words[0, bank] == -1:
                    words[0, bank] = word
                    words[1, bank] = 1
                elif words[0, bank] != word:
                    j = 0
                    while j < extras and extra[j] != word:
                        j += 1
                    if j == extras:
                        extra[extras] = word
                        extras += 1
                        words[1, bank] += 1
                        most = max(most, words[1, bank])
            i += 1
        count[site, WAVEFRONTS] += most * times
        count[site, IDEAL] += times


@njit(cache=True)
def load(memory, state, shadow, address, offset, mask, out, warp_sync, space, count, found, now, site):
    """out[:, b, w, l] = memory at address[b, w, l] + offset, zeros where `mask` is false.

    memory: unsigned words, the access's width; out: (words an access, blocks, warps, lanes), each of the last three 1 where
    all blocks, warps or lanes load the same; address and mask: 1 or that many. state: see GlobalMemory, empty for shared
    memory; shadow: empty for no checks. Returns whether `found` has something; after a fault nothing more is loaded.
    """
    vector, blocks, warps, lanes = out.shape
    width = memory.itemsize
    nbytes = width * vector
    granules = max(nbytes >> space[GRANULE], 1)
    a0, a1, a2 = address.shape[0] > 1, address.shape[1] > 1, address.shape[2] > 1
    m0, m1, m2 = mask.shape[0] > 1, mask.shape[1] > 1, mask.shape[2] > 1
    nw, nb = space[BLOCK_WARPS], space[BATCH_BLOCKS]
    times = (nb // blocks) * (nw // warps)
    initialised = memory.dtype.type(0x0202020202020202 >> (64 - 8 * width))
    offsets, active = np.empty(32, np.int64), np.empty(32, np.int64)
    scratch, bits, words = np.empty(128, np.int64), np.empty(64, np.int64), np.empty((2, 32), np.int64)
    repeats = not (a0 or m0)  # each block has the same addresses
    start, base, size, stride, granule = space[START], space[BASE] - offset, space[SIZE], space[STRIDE], space[GRANULE]
    bad = False
    for b in range(blocks):
        block = space[FIRST_WARP] // nw + b if blocks == nb else -1
        for w in range(warps):
            warp = block * nw + w if block >= 0 and warps == nw else -1
            synced = warp_sync[b, w] if warp >= 0 else 0
            n = 0
            for l in range(lanes):
                if not mask[b * m0, w * m1, l * m2]:
                    for q in range(vector):
                        out[q, b, w, l] = 0
                    continue
                at = address[b * a0, w * a1, l * a2] - base
                if block < 0:
                    me = np.int64(-1)
                elif warp < 0:
                    me = -2 - space[ALL_WARPS] - block
                else:
                    me = -2 - warp if lanes == 1 else warp * 32 + l
                if at < 0 or at + nbytes > size:
                    _report(found, OUT_OF_BOUNDS, at, me, block, 0, 0)
                    return True
                if at & (nbytes - 1):
                    _report(found, MISALIGNED, at, me, block, 0, 0)
                    return True
                offsets[n] = at
                active[n] = l
                n += 1
                index = (at + b * stride) // width
                for q in range(vector):
                    out[q, b, w, l] = memory[index + q]
                    if state.size and state[index + q] != initialised:
                        for byte in range(width):
                            if (state[index + q] >> (8 * byte)) & 3 == 0:
                                _report(found, OUT_OF_BOUNDS, at, me, block, 0, 0)
                                return True
                        _report(found, UNINITIALISED, at + q * width, me, block, 0, 0)
                        bad = True
                if shadow.size == 0:
                    continue
                first = (at + b * stride) >> granule
                for g in range(first, first + granules):
                    writer, when = shadow[g, 0], shadow[g, 1]
                    racing = when >= start and writer != me
                    if racing and not _ordered(writer, when, me, block, warp, space, synced, False):
                        _report(found, RAW, at, me, block, writer, when)
                        bad = True
                    reader, when, readers = shadow[g, 2], shadow[g, 3], me
                    if when >= start and reader != me:
                        readers = _readers(reader, when, me, block, warp, space, synced)
                    shadow[g, 2] = readers
                    shadow[g, 3] = now
            if n == 0:
                continue
            if space[SHARED]:
                if b == 0 or not repeats:
                    _count_shared(offsets, active, n, nbytes, words, scratch, count, site, blocks if repeats else 1)
            else:
                _count_global(offsets, n, nbytes, scratch, bits, count, site, times)
    return bad


@njit(cache=True)
def store(memory, state, shadow, address, offset, mask, values, warp_sync, space, count, found, now, site):
    """memory at address[b, w, l] + offset = values[:, b, w, l] where `mask` is true; arguments and result as of `load`."""
    vector, blocks, warps, lanes = values.shape
    width = memory.itemsize
    nbytes = width * vector
    granules = max(nbytes >> space[GRANULE], 1)
    a0, a1, a2 = address.shape[0] > 1, address.shape[1] > 1, address.shape[2] > 1
    m0, m1, m2 = mask.shape[0] > 1, mask.shape[1] > 1, mask.shape[2] > 1
    nw = space[BLOCK_WARPS]
    initialised = memory.dtype.type(0x0202020202020202 >> (64 - 8 * width))
    offsets, active = np.empty(32, np.int64), np.empty(32, np.int64)
    scratch, bits, words = np.empty(128, np.int64), np.empty(64, np.int64), np.empty((2, 32), np.int64)
    repeats = not (a0 or m0)  # each block has the same addresses
    start, base, size, stride, granule = space[START], space[BASE] - offset, space[SIZE], space[STRIDE], space[GRANULE]
    bad = False
    for b in range(blocks):
        block = space[FIRST_WARP] // nw + b
        for w in range(warps):
            warp = block * nw + w
            synced = warp_sync[b, w]
            n = 0
            for l in range(lanes):
                if not mask[b * m0, w * m1, l * m2]:
                    continue
                at = address[b * a0, w * a1, l * a2] - base
                me = -2 - warp if lanes == 1 else warp * 32 + l
                if at < 0 or at + nbytes > size:
                    _report(found, OUT_OF_BOUNDS, at, me, block, 0, 0)
                    return True
                if at & (nbytes - 1):
                    _report(found, MISALIGNED, at, me, block, 0, 0)
                    return True
                offsets[n] = at
                active[n] = l
                n += 1
                index = (at + b * stride) // width
                same = True
                for q in range(vector):
                    if state.size and state[index + q] != initialised:
                        for byte in range(width):
                            if (state[index + q] >> (8 * byte)) & 3 == 0:
                                _report(found, OUT_OF_BOUNDS, at, me, block, 0, 0)
                                return True
                        state[index + q] = initialised
                    same = same and memory[index + q] == values[q, b, w, l]
                    memory[index + q] = values[q, b, w, l]
                if shadow.size == 0:
                    continue
                first = (at + b * stride) >> granule
                for g in range(first, first + granules):
                    writer, when = shadow[g, 0], shadow[g, 1]
                    author = me
                    if when == now:
                        if same and (writer >> 5 == warp or writer == -2 - warp):
                            author = -2 - warp  # lanes of one warp store one value: a scalar of the warp
                        else:
                            _report(found, WAW, at, me, block, writer, when)
                            bad = True
                    elif (
                        when >= start and writer != me and not _ordered(writer, when, me, block, warp, space, synced, False)
                    ):
                        _report(found, WAW, at, me, block, writer, when)
                        bad = True
                    reader, when = shadow[g, 2], shadow[g, 3]
                    racing = when >= start and reader != me
                    if racing and not _ordered(reader, when, me, block, warp, space, synced, True):
                        _report(found, WAR, at, me, block, reader, when)
                        bad = True
                    shadow[g, 0] = author
                    shadow[g, 1] = now
            if n == 0:
                continue
            if space[SHARED]:
                if b == 0 or not repeats:
                    _count_shared(offsets, active, n, nbytes, words, scratch, count, site, blocks if repeats else 1)
            else:
                _count_global(offsets, n, nbytes, scratch, bits, count, site, 1)
    return bad
