//! Size classes of blocks, and the limits of what is kept of a class.

use std::alloc::Layout;

/// Granularity of the small classes, bytes.
pub const STEP: usize = 16;
/// Maximum size of a small block, bytes. Threads have lists of small blocks only.
pub const SMALL_MAX: usize = 1 << 10;
pub const SMALL_CLASSES: usize = SMALL_MAX / STEP;
/// Maximum size of a large block, bytes.
pub const LARGE_MAX: usize = 1 << 20;
/// Number of classes between two powers of two.
const QUARTERS: usize = 4;
pub const CLASSES: usize = SMALL_CLASSES + QUARTERS * (LARGE_MAX / SMALL_MAX).ilog2() as usize;
/// Minimum alignment of the system allocator, bytes.
pub const ALIGN: usize = 2 * size_of::<usize>();
/// Maximum size of a thread's list, in bytes and in blocks.
const KEPT_BYTES: usize = 8 << 10;
const KEPT_BLOCKS: usize = 64;
/// Maximum size of the depot, bytes: per class, and of all classes.
pub const DEPOT_CLASS_BYTES: usize = LARGE_MAX;
pub const DEPOT_BYTES: usize = 4 << 20;

/// Returns the class of `layout`. `None`: the system allocator serves it.
pub fn class(layout: Layout) -> Option<usize> {
    // A size of zero violates the contract. It would be passed to the system allocator.
    let last = layout.size().wrapping_sub(1);
    if last >= LARGE_MAX || layout.align() > ALIGN {
        return None;
    }
    if last < SMALL_MAX {
        return Some(last / STEP);
    }
    // The two bits after the highest one are the number of the quarter.
    let power = last.ilog2() as usize;
    let quarter = last >> (power - 2) & (QUARTERS - 1);
    Some(SMALL_CLASSES + (power - SMALL_MAX.ilog2() as usize) * QUARTERS + quarter)
}

pub fn is_small(class: usize) -> bool {
    class < SMALL_CLASSES
}

/// Returns the size of a block, bytes.
pub const fn size(class: usize) -> usize {
    if class < SMALL_CLASSES {
        return (class + 1) * STEP;
    }
    let (power, quarter) = ((class - SMALL_CLASSES) / QUARTERS, (class - SMALL_CLASSES) % QUARTERS);
    (SMALL_MAX << power) / QUARTERS * (QUARTERS + quarter + 1)
}

/// Returns the layout with which a block is requested from the system allocator.
pub const fn layout(class: usize) -> Layout {
    match Layout::from_size_align(size(class), ALIGN) {
        Ok(layout) => layout,
        Err(_) => unreachable!(),
    }
}

/// Returns the number of blocks in a full list: for a small class the maximum that a thread keeps,
/// for a large class 1.
pub const fn kept(class: usize) -> usize {
    match KEPT_BYTES / size(class) {
        _ if class >= SMALL_CLASSES => 1,
        blocks if blocks < KEPT_BLOCKS => blocks,
        _ => KEPT_BLOCKS,
    }
}
